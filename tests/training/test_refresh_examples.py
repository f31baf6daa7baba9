"""A refresh samples fairly from all examples that the adapter was trained on."""

import pytest

from adapterhub.cli import refresh as command
from adapterhub.data.dataset import Dataset, concatenate
from adapterhub.data.splits import limit
from adapterhub.workflows.refresh.document import AddedFile
from adapterhub.workflows.refresh.examples import RefreshData
from adapterhub.workflows.refresh.run import LEVEL, REPLAY

SEED = 13
FILE = AddedFile(path="new.jsonl", fingerprint="sha256:c", num_examples=1, fields={})


def named(kind, count):
    return Dataset.whole(kind, [{"text": f"{kind} {number}"} for number in range(count)])


def refresh_data(old, *, num_earlier, root=("train", "validation")):
    return RefreshData(
        old=old,
        root=dict.fromkeys(root, "sha256:b"),
        new=named("new", 10),
        new_splits={"test": named("new", 10)},
        file=FILE,
        added=(FILE,) * num_earlier,
        seed=SEED,
    )


@pytest.mark.parametrize("num_earlier", [1, 2, 3])
def test_added_examples_are_sampled_as_often_as_the_first_ones(num_earlier):
    # the first ones were themselves sampled by the seed, from more examples
    first = limit(named("first", 3000), 1000, seed=SEED)
    both = concatenate(first, named("added", 1000))
    data = refresh_data({"train": both, "validation": first}, num_earlier=num_earlier)
    drawn = data.sample(both, 400).examples
    added = sum(example["text"].startswith("added") for example in drawn)
    assert len(drawn) == 400
    # half of them, within four standard deviations
    assert abs(added - 200) < 40


def test_each_refresh_samples_other_examples():
    old = {"train": named("old", 1000), "validation": named("old", 9)}
    draws = [refresh_data(old, num_earlier=n).sample(old["train"], 100).examples for n in (0, 1)]
    assert draws[0] != draws[1]


def test_forgetting_is_measured_on_the_first_split_and_examples_held_out_since():
    old = {part: named(part, 3) for part in ("train", "validation", "test")}
    without, with_test = (
        refresh_data(old, num_earlier=1, root=root)
        for root in (("train", "validation"), ("train", "validation", "test"))
    )
    assert (without.old_split, with_test.old_split) == ("validation", "test")
    kinds = [each["text"].split()[0] for each in without.old_examples.examples]
    assert kinds == ["validation"] * 3 + ["test"] * 3
    assert with_test.old_examples == old["test"]


def test_seen_examples_are_recognized_by_text_and_label():
    old = {"train": named("new", 4), "validation": named("old", 1)}
    data = refresh_data(old, num_earlier=0)
    assert data.num_seen == 4
    assert [each["text"] for each in data.held_out.examples] == [f"new {n}" for n in range(4, 10)]


def test_the_command_and_the_library_have_the_same_defaults():
    assert (command.REPLAY, command.LEVEL) == (REPLAY, LEVEL)
