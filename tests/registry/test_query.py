"""Lists: every filter, alone and together, and pages that neither repeat nor leave out."""

import random

import pytest

from adapterhub.adapters.manifest import BackboneRef, Metrics
from adapterhub.registry import query as query_module
from adapterhub.registry.query import Query
from adapterhub.specs import PrefixSpec


@pytest.fixture
def filled(registry, artifact):
    registry.put(artifact("a"), "topics")
    prefix = {"task": "dialogue", "adapter": PrefixSpec(4), "labels": ()}
    registry.put(artifact("b", **prefix), "topics")
    registry.put(artifact("c", metrics=Metrics(after={"accuracy": 0.9, "f1": 0.5})), "topical")
    big = {"backbone": BackboneRef(name="big", fingerprint="f")}
    registry.put(
        artifact("d", **big, recipe={"description": 'Finds Königsberg\'s "tone"'}), "team/x"
    )
    registry.tag("topical@1", add=["lang:de", "fast"])
    registry.tag("team/x", add=["fast"])
    registry.set_alias("topics@1", "prod")
    registry.set_alias("team/x@1", "prod")
    return registry


ALL = ["team/x@1", "topical@1", "topics@1", "topics@2"]
CASES = [
    ({}, ALL),
    ({"prefix": "topic"}, ALL[1:]),
    ({"prefix": "team/"}, ["team/x@1"]),
    ({"prefix": "topics' OR 1=1 --"}, []),
    ({"task": "dialogue"}, ["topics@2"]),
    ({"backbone": "big"}, ["team/x@1"]),
    ({"method": "prefix"}, ["topics@2"]),
    ({"metric_at_least": {"accuracy": 0.75}}, ALL),
    ({"metric_at_least": {"accuracy": 0.76}}, ["topical@1"]),
    ({"metric_at_least": {"accuracy": 0.1, "f1": 0.5}}, ["topical@1"]),
    ({"metric_at_least": {"bleu": 0.0}}, []),
    ({"tag": "fast"}, ["team/x@1", "topical@1"]),
    ({"tag": "lang:de"}, ["topical@1"]),
    ({"alias": "prod"}, ["team/x@1", "topics@1"]),
    ({"text": "top"}, ALL[1:]),
    ({"text": "königsberg"}, ["team/x@1"]),
    ({"text": "KONIGSBERG find"}, ["team/x@1"]),
    ({"text": "fruit big"}, ["team/x@1"]),
    ({"text": "tone team-x"}, ["team/x@1"]),
    ({"text": 'tone" OR "topics'}, []),
    ({"text": "NOT"}, []),
    ({"text": "%"}, ALL),
    ({"tag": "fast", "text": "top"}, ["topical@1"]),
    ({"prefix": "t", "task": "text-classification", "alias": "prod"}, ["team/x@1", "topics@1"]),
    ({"after": ("topical", 1)}, ["topics@1", "topics@2"]),
    ({"after": ("topics", 1), "task": "dialogue"}, ["topics@2"]),
    ({"limit": 2}, ALL[:2]),
]


@pytest.mark.parametrize("few", [0, 1, 3000])
@pytest.mark.parametrize(("filters", "expected"), CASES)
def test_filters(filled, monkeypatch, few, filters, expected):
    # whichever filter is looked up first, or none, the list is the same
    monkeypatch.setattr(query_module, "FEW", few)
    assert [str(version.ref) for version in filled.list(Query(**filters))] == expected


def test_pages_cover_everything_once(registry, artifact):
    names = [f"name{number}" for number in range(7)]
    folders = [artifact(str(number)) for number in range(3)]
    for name in names:
        for folder in folders:
            registry.put(folder, name)
    seen, after = [], None
    while page := registry.list(Query(limit=4, after=after)):
        seen += [str(version.ref) for version in page]
        after = (page[-1].name, page[-1].version)
    assert seen == [str(version.ref) for version in registry.list()]
    assert len(seen) == 21


def test_what_is_removed_is_found_no_more(filled):
    filled.remove("topics@2")
    filled.remove("topical@1")
    for filters in ({"task": "dialogue"}, {"tag": "lang:de"}, {"text": "topical"}):
        assert filled.list(Query(**filters)) == ()


def test_a_version_tells_its_tags_labels_and_lineage(filled):
    version = filled.resolve("topical")
    assert version.tags == ("fast", "lang:de")
    assert version.labels == ("fruit", "stone")
    assert version.rank == 2
    assert len(version.recipe) == 64
    assert filled.resolve("topics@prod").aliases == ("prod",)
    assert filled.resolve("topics@2").rank == 4
    assert filled.tag("topical", remove=["fast", "never there"]).tags == ("lang:de",)


@pytest.mark.parametrize("tag", ["", "Fast", "a b", "a'b", "x" * 97, "é", ":a"])
def test_a_tag_is_a_word(filled, tag):
    from adapterhub.errors import RefError

    with pytest.raises(RefError, match="is not a tag"):
        filled.tag("topical", add=[tag])
    assert filled.resolve("topical").tags == ("fast", "lang:de")


def test_many_versions_and_a_random_filter(registry, artifact):
    draw = random.Random(4)
    rows = {}
    for number in range(60):
        accuracy = draw.random()
        folder = artifact(f"w{number}", metrics=Metrics(after={"accuracy": accuracy}))
        version = registry.put(folder, f"n{number % 7}")
        if accuracy < 0.5:
            registry.tag(version.ref, add=["low"])
        rows[str(version.ref)] = accuracy
    for _ in range(20):
        least = draw.random()
        found = registry.list(Query(metric_at_least={"accuracy": least}, tag="low"))
        expected = {ref for ref, value in rows.items() if least <= value < 0.5}
        assert {str(version.ref) for version in found} == expected


def test_filters_that_many_pass_are_not_read_to_their_end(registry, artifact, monkeypatch):
    monkeypatch.setattr(query_module, "FEW", 20)
    query = Query(text="fruit", task="text-classification", metric_at_least={"accuracy": 0.5})

    def steps():
        """Return what SQLite does to see that many pass each filter."""
        counts = []
        with registry._database.reading() as db:
            for each in query_module._filters(query):
                counts.append(0)

                def counted():
                    counts[-1] += 1

                db.set_progress_handler(counted, 1)
                assert query_module._count(db, each) == 20
                db.set_progress_handler(None, 0)
        return counts

    for number in range(120):
        if number == 30:
            few = steps()
        registry.put(artifact(f"w{number}"), f"n{number:04}")
    assert len(few) == 3
    assert all(now < 1.2 * before for now, before in zip(steps(), few, strict=True))
