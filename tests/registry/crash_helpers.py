"""Run as a program: a day in the life of a registry, ended at a moment that nobody chose for it.

Imported by the tests that look at what is left, so it must stay light.
"""

import itertools
import os
import shutil
import sys
from pathlib import Path

from registry_helpers import make_artifact

from adapterhub.registry import Registry

#: Events of Python that come right before something on disk is changed.
CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.utime"}
KILLED = 77


def day(root, folder):
    """Store a version, use, tag and release it, and remove the one before for good."""
    registry = Registry(Path(root))
    version = registry.put(Path(folder), "topics", tags=["new"])
    registry.materialize(version)
    registry.set_alias(version.ref, "prod", why=f"day {version.version}")
    registry.tag(version.ref, remove=["new"])
    registry.remove(f"topics@{version.version - 1}")
    registry.collect(grace=0)


def _end_before(last):
    """End this process, as a kill does, before its change number ``last`` of the disk."""
    count = 0

    def hook(event, arguments):
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int)
        writes = writes and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes or event in CHANGES:
            if count == last:
                os._exit(KILLED)
            count += 1

    sys.addaudithook(hook)


def everywhere(template, target, folder):
    """Let a day end before each change of the disk in turn, in a copy of the home for each."""
    number = 0
    while True:
        root = shutil.copytree(template, Path(target) / str(number))
        child = os.fork()
        if child == 0:
            _end_before(number)
            day(root, folder)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return
        number += 1


def without_end(root, folder):
    """Let one day follow another until somebody kills this process."""
    for number in itertools.count():
        weights = f"weights {os.getpid()} {number}"
        day(root, make_artifact(Path(folder) / weights, weights))
        print(number, flush=True)


if __name__ == "__main__":
    {"everywhere": everywhere, "without_end": without_end}[sys.argv[1]](*sys.argv[2:])
