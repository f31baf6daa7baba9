"""Aliases move, remember their moves, go back, and hold what they point to."""

import threading
from itertools import pairwise

import pytest

from adapterhub.errors import NotFoundError, RefError, RegistryError
from adapterhub.registry import Registry


@pytest.fixture
def three(registry, artifact):
    for content in ("first", "second", "third"):
        registry.put(artifact(content), "topics")
    return registry


def moves(registry, *which):
    return [(m.alias, m.from_version, m.to_version, m.why) for m in registry.history(*which)]


def test_an_alias_moves_and_its_history_tells_who_and_why(three, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_USER", "ada")
    move = three.set_alias("topics@1", "prod", why="first release")
    assert (move.who, move.from_version, move.to_version) == ("ada", None, 1)
    assert three.set_alias("topics@1", "prod") is None
    three.set_alias("topics@2", "prod", why="better")
    three.set_alias("topics", "staging")
    assert three.resolve("topics@prod").version == 2
    assert three.resolve("topics@staging").version == 3
    three.remove_alias("topics", "staging", why="done")
    assert moves(three, "topics") == [
        ("staging", 3, None, "done"),
        ("staging", None, 3, ""),
        ("prod", 1, 2, "better"),
        ("prod", None, 1, "first release"),
    ]
    assert len(three.history("topics", "prod")) == 2
    assert len(three.history("other")) == 0
    with pytest.raises(NotFoundError, match="Did you mean 'prod'"):
        three.resolve("topics@prot")


def test_rolling_back_returns_to_the_version_before(three):
    for version in (1, 2, 3):
        three.set_alias(f"topics@{version}", "prod")
    assert three.rollback("topics", "prod", why="slow").to_version == 2
    assert three.resolve("topics@prod").version == 2
    # a rollback is a move like any other
    assert three.rollback("topics", "prod").to_version == 3


def test_rolling_back_skips_versions_that_are_gone(three):
    for version in (1, 2, 3):
        three.set_alias(f"topics@{version}", "prod")
    three.remove("topics@2")
    assert three.rollback("topics", "prod").to_version == 1
    three.remove("topics@3")
    with pytest.raises(NotFoundError, match="has no earlier version"):
        three.rollback("topics", "prod")
    with pytest.raises(NotFoundError, match="no alias"):
        three.rollback("topics", "staging")


def test_a_version_that_an_alias_points_to_is_not_removed(three):
    three.set_alias("topics@2", "prod")
    with pytest.raises(RegistryError, match="the alias 'prod' points to it"):
        three.remove("topics@2")
    assert three.resolve("topics@prod").version == 2
    three.remove_alias("topics", "prod")
    three.remove("topics@2")


@pytest.mark.parametrize("alias", ["latest", "3", "Prod", "a b", "sha256", ""])
def test_what_can_be_no_alias(three, alias):
    with pytest.raises(RefError):
        three.set_alias("topics@1", alias)
    assert three.history() == ()


def test_a_move_decided_upon_an_older_state_is_refused(three):
    three.set_alias("topics@1", "prod", expected=0)
    three.set_alias("topics@2", "prod", expected=1)
    with pytest.raises(RegistryError, match="points to version 2 now, not to none"):
        three.set_alias("topics@3", "prod", expected=0)
    with pytest.raises(RegistryError, match="points to version 2 now"):
        three.set_alias("topics@3", "prod", expected=1)
    assert three.resolve("topics@prod").version == 2


def test_names_have_aliases_of_their_own(three, artifact):
    three.put(artifact("first"), "other")
    three.set_alias("topics@2", "prod")
    three.set_alias("other@1", "prod")
    assert three.resolve("topics@prod").version == 2
    assert three.resolve("other@prod").version == 1


def test_many_movers_lose_no_move(three, tmp_path):
    def move(version: int) -> None:
        registry = Registry(tmp_path / "home")
        for _ in range(10):
            registry.set_alias(f"topics@{version}", "prod")

    threads = [threading.Thread(target=move, args=(1 + n % 3,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = list(reversed(three.history("topics", "prod")))
    # each move begins where the one before ended
    assert history[0].from_version is None
    for before, after in pairwise(history):
        assert before.to_version == after.from_version
    assert three.resolve("topics@prod").version == history[-1].to_version
