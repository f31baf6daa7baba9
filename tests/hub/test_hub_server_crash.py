"""A commit that is killed at any step leaves all of it or nothing."""

import subprocess
import sys
from pathlib import Path

from hub_server_killed import NAME, commit_folder, fresh
from registry.registry_helpers import make_artifact

from adapterhub.hub.server import RepoStore
from adapterhub.registry import Registry
from adapterhub.registry.blobs import file_fault

PROGRAM = Path(__file__).with_name("hub_server_killed.py")


def check(root):
    """Require a whole state and return the versions and the tags there are."""
    registry, store = Registry(root), RepoStore(root)
    assert registry.verify() == ()
    repository = store.get(NAME)
    for ref in store.refs(repository):
        for file in store.tree(repository, ref.sha).values():
            path = store.blobs.checked(file.sha256)
            assert file_fault(path, file.sha256) == ""
    head = store.revision(repository, "main")
    tags = [ref.name for ref in store.refs(repository) if ref.kind == "tag"]
    versions = [f"v{each.version}" for each in registry.versions(NAME)]
    assert tags == versions
    assert bool(store.tree(repository, head.sha)) == (versions != [])
    return versions


def test_a_commit_killed_at_every_step(tmp_path):
    folder = make_artifact(tmp_path / "artifact", "first")
    template = tmp_path / "template"
    RepoStore(template).create(NAME, private=False, author="tester")
    seen = []
    for step in range(100):
        root = fresh(template, tmp_path / str(step))
        command = [sys.executable, str(PROGRAM), str(root), str(folder), str(step)]
        code = subprocess.run(command, check=False, timeout=60).returncode
        assert code in (0, 77)
        seen.append(check(root))
        # whatever happened, the same commit can be made again
        commit_folder(RepoStore(root), folder)
        assert check(root) == ["v1"]
        if code == 0:
            break
    assert seen[0] == []
    assert seen[-1] == ["v1"]
    assert len(seen) > 10
