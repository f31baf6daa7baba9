"""Run as a program: commit an artifact and be killed at a step, or print the steps."""

import os
import shutil
import sys
from pathlib import Path

from adapterhub.hub.server import HubSettings, RepoStore
from adapterhub.hub.server.blobstore import StagingFile
from adapterhub.hub.server.records import Add, Commit

NAME = "team/fruit"


def commit_folder(store, folder):
    """Commit every file of a folder to main, as the commit handler does."""
    with store.staging() as staging:
        operations = []
        for path in sorted(folder.iterdir()):
            writer = StagingFile(staging / path.name)
            writer.buffer(path.read_bytes())
            staged = writer.finish()
            operations.append(Add(path.name, staged.sha256, staged.size, staged.path))
        wanted = Commit("push", "", None, tuple(operations))
        return store.commit(store.get(NAME), "main", wanted, "tester")


def main(root, folder, last):
    """End the process at step number ``last``, counted from 0; with code 0 if there is none."""
    count = 0

    def hook(_step):
        nonlocal count
        if count == int(last):
            os._exit(77)
        count += 1

    store = RepoStore(Path(root), HubSettings(), on_step=hook)
    commit_folder(store, Path(folder))


def fresh(template, target):
    """Return a copy of a home folder."""
    shutil.copytree(template, target)
    return target


if __name__ == "__main__":
    main(*sys.argv[1:])
