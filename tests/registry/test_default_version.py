"""The version that a name alone refers to."""

import pytest

from adapterhub.errors import NotFoundError


def put(registry, artifact, seed, *tags):
    return registry.put(artifact(f"weights {seed}"), "desk", tags=tags)


def test_without_aliases_it_is_the_newest_that_is_no_trial(registry, artifact):
    put(registry, artifact, 1)
    put(registry, artifact, 2)
    put(registry, artifact, 3, "trial")
    assert registry.resolve("desk").version == 2
    assert registry.resolve("desk@latest").version == 3
    registry.tag("desk@3", remove=["trial"])
    assert registry.resolve("desk").version == 3


def test_the_alias_prod_decides(registry, artifact):
    put(registry, artifact, 1, "trial")
    put(registry, artifact, 2)
    registry.set_alias("desk@1", "prod")
    assert registry.resolve("desk").version == 1


def test_an_only_version_is_it_even_as_a_trial_but_not_one_of_several(registry, artifact):
    put(registry, artifact, 1, "trial")
    assert registry.resolve("desk").version == 1
    put(registry, artifact, 2, "trial")
    with pytest.raises(NotFoundError, match=r"all of them trials.*desk@2"):
        registry.resolve("desk")


def test_what_changes_a_version_takes_the_latest_one(registry, artifact):
    put(registry, artifact, 1)
    registry.set_alias("desk@1", "prod")
    put(registry, artifact, 2)
    assert registry.tag("desk", add=["new"]).version == 2
    registry.set_alias("desk", "prod")
    assert registry.resolve("desk").version == 2
