"""Several processes at once lose nothing and never see a half state."""

import multiprocessing
import queue

from registry_helpers import churn, read_all, write_five

from adapterhub.registry import Registry


def drain(failures):
    found = []
    while True:
        try:
            found.append(failures.get(timeout=0.1))
        except queue.Empty:
            return found


def test_writers_and_readers_at_once(tmp_path, artifact):
    root = tmp_path / "home"
    # every writer has two contents that all have, and three of its own
    common = [artifact("common 0"), artifact("common 1")]
    works = [
        [common[0], *(artifact(f"{writer} {item}") for item in range(3)), common[1]]
        for writer in range(4)
    ]
    churned = artifact("churned")
    context = multiprocessing.get_context("spawn")
    barrier, done, failures = context.Barrier(8), context.Event(), context.Queue()
    # the registry itself is made by whichever process is first
    writers = [
        context.Process(target=write_five, args=(root, folders, barrier)) for folders in works
    ]
    writers += [
        context.Process(target=churn, args=(root, churned, f"churn-{number}", barrier))
        for number in range(2)
    ]
    readers = [
        context.Process(target=read_all, args=(root, done, barrier, failures)) for _ in range(2)
    ]
    for process in (*writers, *readers):
        process.start()
    for process in writers:
        process.join(timeout=120)
    done.set()
    for process in readers:
        process.join(timeout=120)
    assert drain(failures) == []
    assert [process.exitcode for process in (*writers, *readers)] == [0] * 8
    registry = Registry(root)
    versions = registry.versions("shared")
    assert [version.version for version in versions] == list(range(1, 15))
    assert len({version.digest for version in versions}) == 14
    assert registry.verify() == ()
    assert list((registry.folder / "staging").iterdir()) == []
    for version in versions:
        registry.materialize(version)
