"""Run as a program: serve a registry on a port, having printed a token."""

import sys
from pathlib import Path

from adapterhub.hub.server import RepoStore, Scope, Tokens, serve


def main(root, port):
    """Serve until killed."""
    tokens = Tokens(RepoStore(Path(root)).database)
    token = tokens.add("tester", [Scope("write", "*")])
    sys.stdout.write(f"{token}\n")
    sys.stdout.flush()
    serve(Path(root), "127.0.0.1", int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
