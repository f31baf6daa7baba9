"""Splits, duplicates, samples and fingerprints."""

import datetime
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.data.dataset import Dataset
from adapterhub.data.splits import (
    count_repeated,
    drop_duplicates,
    fingerprint,
    limit,
    require_examples,
    split_examples,
)
from adapterhub.errors import DataError, RecipeError


def examples(values):
    return Dataset("a.jsonl", tuple(values), tuple(range(1, len(values) + 1)))


def texts(found):
    return [example["text"] for example in found.examples]


MANY = examples([{"text": f"line {i}", "label": i % 3} for i in range(2000)])
SOME = st.lists(st.sampled_from("abcdefgh").map(lambda t: {"text": t}), max_size=30)


def test_shares_are_met_on_average():
    kept, out = split_examples(MANY, held_out=0.2, seed=13)
    assert len(kept) + len(out) == 2000
    assert 320 < len(out) < 480
    assert list(out.numbers) == sorted(out.numbers)
    assert out.examples[0] == MANY.examples[out.numbers[0] - 1]


def test_the_seed_draws_another_split():
    first, second = (set(texts(split_examples(MANY, held_out=0.5, seed=s)[1])) for s in (1, 2))
    assert len(first & second) < 0.7 * len(first)


@given(SOME, st.randoms(use_true_random=False), st.integers(-5, 5))
def test_a_side_depends_on_content_and_seed_alone(values, random, seed):
    kept, out = split_examples(examples(values), held_out=0.4, seed=seed)
    assert not set(texts(kept)) & set(texts(out))
    fewer = random.sample(values, random.randint(0, len(values)))
    kept_now, out_now = split_examples(examples(fewer), held_out=0.4, seed=seed)
    assert set(texts(kept_now)) <= set(texts(kept))
    assert set(texts(out_now)) <= set(texts(out))


def test_the_split_is_the_same_in_another_process():
    code = (
        "from adapterhub.data.dataset import Dataset\n"
        "from adapterhub.data.splits import split_examples\n"
        "examples = Dataset.whole('x', [{'b': i, 'a': 'ä'} for i in range(40)])\n"
        "print(split_examples(examples, held_out=0.3, seed=4)[1].numbers)"
    )
    here = Dataset("y", tuple({"a": "ä", "b": i} for i in range(40)), tuple(range(1, 41)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(split_examples(here, held_out=0.3, seed=4)[1].numbers)


def test_key_fields_keep_examples_of_one_text_together():
    pairs = examples([{"text": f"t{i // 2}", "label": i} for i in range(400)])
    kept, out = split_examples(pairs, held_out=0.5, seed=1, key_fields=("text",))
    assert not set(texts(kept)) & set(texts(out))
    kept, out = split_examples(pairs, held_out=0.5, seed=1)
    assert set(texts(kept)) & set(texts(out))


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range(share):
    with pytest.raises(RecipeError, match=r"^data\.split: a share must be"):
        split_examples(MANY, held_out=share, seed=1)


def test_an_empty_split_is_named():
    with pytest.raises(DataError, match=r"the validation split is empty"):
        require_examples(examples([]), "validation")


def test_the_first_of_repeats_stays():
    values = examples([{"text": "a", "n": 1}, {"n": 1, "text": "a"}, {"text": "a", "n": 2}])
    kept, dropped = drop_duplicates(values)
    assert (list(kept.numbers), dropped) == ([1, 3], 1)
    kept, dropped = drop_duplicates(values, key_fields=("text",))
    assert (list(kept.numbers), dropped) == ([1], 2)


def test_repeated_counts_examples_whose_text_is_known():
    train = examples([{"text": "a", "label": 0}, {"text": "b", "label": 0}])
    other = examples(
        [{"text": "a", "label": 1}, {"text": "a", "label": 0}, {"text": "c", "label": 0}]
    )
    assert count_repeated(train, other, ["text"]) == 2
    assert count_repeated(train, other, ["text", "label"]) == 1


@given(st.permutations(range(20)), st.integers(1, 25))
def test_a_sample_does_not_depend_on_the_order(order, count):
    values = [{"text": str(i)} for i in range(20)]
    sample = limit(examples(values), count, seed=3)
    again = limit(examples([values[i] for i in order]), count, seed=3)
    assert len(sample) == min(count, 20)
    assert set(texts(sample)) == set(texts(again))
    assert list(sample.numbers) == sorted(sample.numbers)


def test_samples_grow_and_depend_on_the_seed():
    small, large = (set(texts(limit(MANY, n, seed=3))) for n in (50, 100))
    assert small < large
    assert set(texts(limit(MANY, 50, seed=4))) != small
    assert limit(MANY, None, seed=3) is MANY
    with pytest.raises(ValueError, match="at least 1"):
        limit(MANY, 0, seed=3)


def test_the_fingerprint_is_of_content_and_order():
    one, two = {"text": "ä", "label": 1}, {"text": "b", "label": 2}
    digest = fingerprint(examples([one, two]))
    # pinned: manifests and checkpoints hold it
    assert digest == "sha256:98021749a50079de39ebee00b54f7855caa9a68631ec5b6757660fa028972b4d"
    turned = [dict(reversed(one.items())), two]
    assert fingerprint(Dataset("b.csv", tuple(turned), (7, 9))) == digest
    assert fingerprint(examples([two, one])) != digest
    assert fingerprint(examples([one])) != digest
    assert fingerprint(examples([{**one, "label": "1"}, two])) != digest


@pytest.mark.parametrize("value", [datetime.date(2020, 1, 2), b"x", float("nan"), object(), {1}])
def test_a_value_with_no_form_in_json_names_its_example(value):
    for use in (fingerprint, drop_duplicates):
        with pytest.raises(DataError, match=r"^a.jsonl example 2: .*not JSON"):
            use(examples([{"a": 1}, {"a": value}]))
