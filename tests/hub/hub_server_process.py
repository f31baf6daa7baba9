"""Run as a program: serve a registry on a port, having printed a token."""

import sys
from pathlib import Path

from adapterhub.access import open_keys, parse_scope
from adapterhub.hub.server import serve
from adapterhub.registry import Registry


def main(root, port):
    """Serve until killed."""
    keys = open_keys(Registry(Path(root)))
    token = keys.create("tester", None, scopes=[parse_scope("write:*")])
    sys.stdout.write(f"{token}\n")
    sys.stdout.flush()
    serve(Path(root), "127.0.0.1", int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
