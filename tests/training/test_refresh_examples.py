"""Rows of a refresh are drawn fairly from all that the adapter learned from."""

import pytest

from adapterhub.cli import refresh as command
from adapterhub.data.dataset import joined, numbered
from adapterhub.data.splits import limit
from adapterhub.workflows.refresh.document import AddedFile
from adapterhub.workflows.refresh.examples import RefreshExamples
from adapterhub.workflows.refresh.run import LEVEL, REPLAY

SEED = 13
FILE = AddedFile(path="new.jsonl", fingerprint="sha256:c", num_examples=1, fields={})


def named(kind, count):
    return numbered(kind, [{"text": f"{kind} {number}"} for number in range(count)])


def refresh_rows(old, *, earlier, root=("train", "validation")):
    return RefreshExamples(
        old=old,
        root=dict.fromkeys(root, "sha256:b"),
        new=named("new", 10),
        parts={"test": named("new", 10)},
        file=FILE,
        earlier=earlier,
        seed=SEED,
    )


@pytest.mark.parametrize("earlier", [1, 2, 3])
def test_rows_that_a_refresh_added_are_drawn_as_often_as_the_first_ones(earlier):
    # the first ones were themselves drawn by the seed, from more rows
    first = limit(named("first", 3000), 1000, seed=SEED)
    both = joined(first, named("added", 1000))
    rows = refresh_rows({"train": both, "validation": first}, earlier=earlier)
    drawn = rows.draw(both, 400).examples
    added = sum(row["text"].startswith("added") for row in drawn)
    assert len(drawn) == 400
    # half of them, within four standard deviations
    assert abs(added - 200) < 40


def test_each_refresh_draws_others():
    old = {"train": named("old", 1000), "validation": named("old", 9)}
    draws = [refresh_rows(old, earlier=n).draw(old["train"], 100).examples for n in (0, 1)]
    assert draws[0] != draws[1]


def test_forgetting_is_judged_by_the_first_split_and_what_was_held_out_since():
    old = {part: named(part, 3) for part in ("train", "validation", "test")}
    without, with_test = (
        refresh_rows(old, earlier=1, root=root)
        for root in (("train", "validation"), ("train", "validation", "test"))
    )
    assert (without.judged_by, with_test.judged_by) == ("validation", "test")
    assert [row["text"].split()[0] for row in without.judged.examples] == ["validation"] * 3 + [
        "test"
    ] * 3
    assert with_test.judged == old["test"]


def test_what_was_learned_before_is_told_by_text_and_answer():
    old = {"train": named("new", 4), "validation": named("old", 1)}
    rows = refresh_rows(old, earlier=0)
    assert rows.learned_before == 4
    assert [row["text"] for row in rows.held_out.examples] == [f"new {n}" for n in range(4, 10)]


def test_the_command_and_the_library_agree_on_what_is_not_given():
    assert (command.REPLAY, command.LEVEL) == (REPLAY, LEVEL)
