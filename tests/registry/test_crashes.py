"""Killed before every change of the disk, and at any moment: whole versions and no half ones.

``test_faults`` kills at the steps that the registry itself names. These kills do not ask it.
"""

import random
import signal
import subprocess
import sys
import time
from itertools import pairwise

import crash_helpers
from registry_helpers import WEIGHTS, text_of

from adapterhub.registry import Registry

#: Times that a process is killed at a moment drawn by chance.
KILLS = 12


def run(*words):
    command = [sys.executable, crash_helpers.__file__, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def require_whole(registry):
    """Require that all that is listed is served, and that aliases and their history agree."""
    assert registry.verify() == ()
    versions = registry.versions("topics")
    for version in versions:
        weights = text_of(registry.materialize(version) / WEIGHTS)
        assert weights.startswith("weights "), weights
    moves = registry.history("topics", "prod")
    released = [version.version for version in versions if "prod" in version.aliases]
    assert released == [move.to_version for move in moves[:1]]
    assert all(new.from_version == old.to_version for new, old in pairwise(moves))
    return versions


def test_killed_before_every_change_of_the_disk(tmp_path, artifact):
    template = tmp_path / "template"
    registry = Registry(template)
    registry.put(artifact("weights 1"), "topics")
    registry.set_alias("topics@1", "staging")
    registry.remove_alias("topics", "staging")
    work = run("everywhere", template, tmp_path / "homes", artifact("weights 2"))
    _, said = work.communicate(timeout=120)
    assert work.returncode == 0, said
    homes = sorted((tmp_path / "homes").iterdir(), key=lambda home: int(home.name))
    # put, checkout and collection change the disk dozens of times
    assert len(homes) > 30
    left, third = [], artifact("weights 3")
    for home in homes:
        after = Registry(home)
        left.append([version.version for version in require_whole(after)])
        # whatever was done, the day can be lived again
        crash_helpers.day(home, third)
        newest = after.resolve("topics@prod")
        assert text_of(after.materialize(newest) / WEIGHTS) == "weights 3"
        require_whole(after)
    assert [seen for n, seen in enumerate(left) if not n or seen != left[n - 1]] == [
        [1],
        [1, 2],
        [2],
    ]


def test_killed_at_any_moment(tmp_path, artifact):
    root = tmp_path / "home"
    registry = Registry(root)
    registry.put(artifact("weights 1"), "topics")
    draw = random.Random(11)
    last = 1
    for _ in range(KILLS):
        work = run("without_end", root, tmp_path / "days")
        assert work.stdout.readline(), work.stderr.read()
        time.sleep(draw.random() * 0.1)
        work.send_signal(signal.SIGKILL)
        work.communicate(timeout=30)
        versions = require_whole(registry)
        # no number is given twice, and what was released before is not lost
        assert versions
        assert versions[-1].version > last
        last = versions[-1].version
