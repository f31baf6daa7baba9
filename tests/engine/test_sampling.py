"""Sampling: against transformers' processors, alone and in mixed batches."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from adapterhub.engine.sampling.draw import draw_tokens, token_weights, uniform_bits
from adapterhub.engine.sampling.params import MAX_STOPS, SamplingParams
from adapterhub.engine.sampling.sampler import Sampler
from adapterhub.engine.sampling.state import SamplingState, SeenTokens, apply_penalties
from adapterhub.errors import RequestError

VOCABULARY = 1500
#: of Philox4x64-10 as numpy has it
GOLDEN = (213000021201967259, 2897417925929110537)


def random_logits(count, width=VOCABULARY, seed=0, spread=4.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * spread


def state(prompt=(), answer=(), **settings):
    found = SamplingState(SamplingParams(**{"seed": 0, **settings}), prompt, eos_ids=(2,))
    for token in answer:
        found.append(token)
    return found


def tokens_of(logits, states):
    return [sampled.token for sampled in Sampler().sample(logits, states)]


def transformers_scores(logits, params):
    """What transformers' own processors make of one sequence's logits, ``[1, vocabulary]``."""
    chain = [TemperatureLogitsWarper(params.temperature)]
    chain += [TopKLogitsWarper(params.top_k)] if params.top_k else []
    chain += [TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []
    chain += [MinPLogitsWarper(params.min_p)] if params.min_p else []
    for processor in chain:
        logits = processor(None, logits)
    return logits


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 10**9},
    {"top_p": 0.01},
    {"top_p": 0.9},
    # more than the head that is sorted first
    {"top_p": 0.999, "temperature": 8.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"temperature": 0.7, "top_k": 50, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 3.0, "top_k": 900, "top_p": 0.95},
]


@pytest.mark.parametrize("seed", range(4))
def test_tokens_and_probabilities_are_those_of_transformers(seed):
    params = [SamplingParams(**one) for one in SETTINGS]
    logits = random_logits(len(params), seed=seed)
    weights = token_weights(logits.clone(), params).double()
    for i, one in enumerate(params):
        expected = transformers_scores(logits[i : i + 1], one).double().softmax(-1)[0]
        found = weights[i] / weights[i].sum()
        # less likely than 2**-40 of the best never comes
        assert torch.equal(found > 0, expected > expected.max() * 2.0**-40), SETTINGS[i]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("options", [{"top_p": 0.5}, {"top_k": 2}, {"min_p": 1.0}])
def test_what_ties_with_the_last_kept_token_is_kept(options):
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0]])
    kept = token_weights(logits, [SamplingParams(**options)]) > 0
    assert kept.tolist() == [[False, True, True, True, False]]


def test_extreme_finite_logits_are_sampled():
    logits = torch.tensor([[3e38, -3e38, 1.0]])
    states = [state(temperature=1e-8, repetition_penalty=0.01, answer=[0])]
    assert tokens_of(logits, states) == [0]


@pytest.mark.parametrize("penalty", [0.5, 1.3])
def test_repetition_penalty_is_that_of_transformers(penalty):
    logits = random_logits(2)
    prompts, answer = [[5, 9, 9, 70], [8]], [5, 11, 11]
    found = logits.clone()
    states = [state(prompt, answer, repetition_penalty=penalty) for prompt in prompts]
    apply_penalties(found, [(i, one.seen, one.params) for i, one in enumerate(states)])
    for i, prompt in enumerate(prompts):
        ids = torch.tensor([prompt + answer])
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits[i : i + 1])
        assert torch.equal(found[i : i + 1], expected)


def test_penalties_in_a_mixed_batch_are_those_of_a_loop():
    options = [
        {"repetition_penalty": 1.7, "frequency_penalty": 0.5, "presence_penalty": -1.0},
        {"presence_penalty": 2.0},
        {"frequency_penalty": -0.25},
    ]
    prompt, answer = [1, 2, 3, 2], [3, 4, 4, *range(100, 300)]
    states = [state(prompt, answer, **one) for one in options]
    logits = random_logits(4)
    found = logits.clone()
    apply_penalties(
        found, [(i, one.seen, one.params) for i, one in zip([0, 2, 3], states, strict=True)]
    )
    expected = logits.clone()
    counts = Counter(answer)
    for i, one in zip([0, 2, 3], states, strict=True):
        for token in {*prompt, *answer}:
            value, params = expected[i, token], one.params
            strength = params.repetition_penalty
            value = value * strength if value < 0 else value / strength
            value = value - params.frequency_penalty * counts[token]
            expected[i, token] = value - params.presence_penalty * (counts[token] > 0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_ids_that_are_no_token_have_no_penalty():
    logits = random_logits(1)
    states = [state([0xFFFFFFFF, VOCABULARY], temperature=0, repetition_penalty=2.0)]
    assert tokens_of(logits, states) == logits.argmax(-1).tolist()


def test_presence_penalty_counts_the_answer_only():
    logits = torch.tensor([[1.0, 0.9, 0.0]])
    options = {"temperature": 0, "presence_penalty": 0.5}
    assert tokens_of(logits, [state([0], **options)]) == [0]
    assert tokens_of(logits, [state([], [0], **options)]) == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_greedy_takes_the_largest_whatever_the_type(dtype):
    logits = random_logits(3).to(dtype)
    before = logits.clone()
    states = [state(temperature=0), state(temperature=0, presence_penalty=1.0), state(top_k=1)]
    assert tokens_of(logits, states) == logits.argmax(-1).tolist()
    assert torch.equal(logits, before)


def test_draws_follow_the_probabilities():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None]
    draws = 20_000
    weights = token_weights(logits.repeat(draws, 1), [SamplingParams()] * draws)
    drawn = Counter(draw_tokens(weights, [uniform_bits(7, 0, step) for step in range(draws)]))
    for token, share in enumerate([0.5, 0.3, 0.15, 0.05]):
        spread = math.sqrt(draws * share * (1 - share))
        assert abs(drawn[token] - draws * share) < 5 * spread


def test_smallest_and_largest_number_draw_possible_tokens():
    weights = torch.tensor([[0, 3, 0, 5, 0], [0, 3, 0, 5, 0], [0, 0, 0, 0, 0]])
    assert draw_tokens(weights, [0, 2**64 - 1, 5]) == [1, 3, None]


def test_random_numbers_are_the_same_in_every_release():
    assert uniform_bits(0, 0, 0) == GOLDEN[0]
    assert uniform_bits(2**64 - 1, 1, 2) == GOLDEN[1]


MIXES = st.lists(
    st.fixed_dictionaries(
        {"seed": st.integers(0, 2**64 - 1)},
        optional={
            "temperature": st.sampled_from([0, 0.2, 1.0, 5.0]),
            "top_k": st.sampled_from([1, 20, 700]),
            "top_p": st.sampled_from([0.1, 0.9, 0.9999]),
            "min_p": st.sampled_from([0.01, 0.5]),
            "repetition_penalty": st.sampled_from([0.8, 1.2]),
            "frequency_penalty": st.sampled_from([-1.0, 0.5]),
            "logprobs": st.integers(0, 5),
            "min_tokens": st.sampled_from([0, 9]),
        },
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=60)
@given(MIXES, st.integers(0, 2**32), st.randoms(use_true_random=False), st.integers(1, 3))
def test_token_of_a_sequence_does_not_depend_on_the_others(mix, seed, order, chunk):
    logits = random_logits(len(mix), width=1001, seed=seed)
    states = [state([3, 4], [5, 5, 6], **one) for one in mix]
    alone = [tokens_of(logits[i : i + 1], [one])[0] for i, one in enumerate(states)]
    places = list(range(len(mix)))
    order.shuffle(places)
    found = Sampler(chunk_size=chunk).sample(logits[places], [states[place] for place in places])
    assert [one.token for one in found] == [alone[place] for place in places]


def test_neither_threads_nor_other_sequences_change_a_draw_over_a_real_vocabulary():
    logits = random_logits(6, width=49_157)
    states = [state(seed=i, top_p=0.95, temperature=1.5) for i in range(6)]
    alone = [tokens_of(logits[i : i + 1], [one])[0] for i, one in enumerate(states)]
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert tokens_of(logits, states) == alone
    finally:
        torch.set_num_threads(before)


def test_seed_answer_and_step_each_have_their_own_stream():
    logits = random_logits(1, spread=0.0)
    params = SamplingParams(seed=5, n=2)
    states = [SamplingState(params, index=index) for index in (0, 1, 0)]
    states[2].append(1)
    other = SamplingState(SamplingParams(seed=6))
    assert len(set(tokens_of(logits.repeat(4, 1), [*states, other]))) == 4
    again = SamplingState(params, index=1)
    assert tokens_of(logits, [again]) == tokens_of(logits, [states[1]])


def test_missing_seed_is_drawn_and_reported():
    first, second = SamplingState(SamplingParams()), SamplingState(SamplingParams())
    assert first.seed != second.seed
    logits = random_logits(1)
    assert tokens_of(logits, [first]) == tokens_of(logits, [state(seed=first.seed)])
    assert SamplingState(SamplingParams(), seed=9).seed == 9
    assert SamplingState(SamplingParams(seed=0), seed=9).seed == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": 1.0, "logprobs": 2}])
def test_bad_logits_are_an_error_of_their_sequence_only(bad, options):
    logits = random_logits(3)
    logits[1, 7] = bad
    found = Sampler().sample(logits, [state(**options) for _ in range(3)])
    assert [one.token is None for one in found] == [False, True, False]
    assert "NaN or infinity" in str(found[1].error)
    assert found[0].error is None
    assert found[1].logprobs is None


def test_minus_infinity_everywhere_is_an_error_and_one_such_logit_is_not():
    logits = random_logits(2)
    logits[0, 7], logits[1] = -math.inf, -math.inf
    first, second = Sampler().sample(logits, [state(), state()])
    assert first.error is None
    assert second.token is None


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_only_tokens_of_the_mask_are_sampled(temperature):
    logits = random_logits(2)
    states = [state(temperature=temperature, top_k=3) for _ in range(2)]
    for one, allowed in zip(states, ([400], []), strict=True):
        one.allowed = torch.zeros(VOCABULARY, dtype=torch.bool)
        one.allowed[allowed] = True
    first, second = Sampler().sample(logits, states)
    assert first.token == 400
    assert (second.token, str(second.error)) == (None, "every token is excluded")


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_nothing_ends_the_text_before_min_tokens(temperature):
    logits = torch.zeros(1, 5)
    logits[0, [2, 3]] = 50.0
    one = state(temperature=temperature, min_tokens=2, stop_token_ids=(3, 10**6))
    came = []
    while True:
        came.append(tokens_of(logits, [one])[0])
        if one.append(came[-1]):
            break
    assert len(came) == 3
    assert came[-1] in (2, 3)
    assert not {2, 3} & set(came[:2])


def test_text_ends_by_its_tokens_or_its_length():
    def reasons(tokens, **options):
        one = state(**options)
        return [one.append(token) for token in tokens]

    assert reasons([7, 2]) == [None, "stop"]
    assert reasons([2, 9], ignore_eos=True, stop_token_ids=(9,)) == [None, "stop"]
    assert reasons([7, 7], max_tokens=2) == [None, "length"]
    assert reasons([7, 2], max_tokens=2) == [None, "stop"]


def test_logprobs_are_of_the_raw_logits():
    logits = random_logits(4)
    states = [
        state(temperature=0, logprobs=0),
        state(temperature=0.1, top_k=1, logprobs=3, presence_penalty=2.0, answer=[1, 2, 3]),
        state(),
        state(logprobs=20, seed=4),
    ]
    expected = logits.double().log_softmax(-1)
    for i, found in enumerate(Sampler().sample(logits, states)):
        count = states[i].params.logprobs
        if count is None:
            assert found.logprobs is None
            continue
        assert found.logprobs.chosen == pytest.approx(expected[i, found.token].item(), abs=1e-4)
        values, ids = expected[i].topk(count)
        assert [token for token, _ in found.logprobs.best] == ids.tolist()
        assert [value for _, value in found.logprobs.best] == pytest.approx(values.tolist(), 1e-4)


def test_an_empty_batch_gives_no_tokens():
    assert Sampler().sample(torch.zeros(0, 5), []) == []


def test_seen_tokens_grow_past_their_capacity():
    seen = SeenTokens([1, 1, 2])
    for token in [*range(500), *range(10)]:
        seen.add(token)
    found = dict(zip(seen.tokens.tolist(), seen.counts.tolist(), strict=True))
    assert found == {token: 2 if token < 10 else 1 for token in range(500)}


@pytest.mark.parametrize(
    ("options", "place", "said"),
    [
        ({"temperature": -1}, "temperature", "-1"),
        ({"temperature": math.nan}, "temperature", "nan"),
        ({"temperature": True}, "temperature", "True"),
        ({"temperature": 1e-9}, "temperature", "1e-09"),
        ({"temperature": "1"}, "temperature", "'1'"),
        ({"top_k": -1}, "top_k", "-1"),
        ({"top_k": 1.0}, "top_k", "1.0"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_p": 1.1}, "top_p", "1.1"),
        ({"min_p": 2}, "min_p", "2"),
        ({"repetition_penalty": 0}, "repetition_penalty", "0"),
        ({"presence_penalty": 2.5}, "presence_penalty", "2.5"),
        ({"frequency_penalty": -2.5}, "frequency_penalty", "-2.5"),
        ({"seed": 2**64}, "seed", str(2**64)),
        ({"seed": -1}, "seed", "-1"),
        ({"stop": "end"}, "stop", "'end'"),
        ({"stop": [""]}, "stop", "not empty"),
        ({"stop": ["x"] * (MAX_STOPS + 1)}, "stop", str(MAX_STOPS)),
        ({"stop": ["x" * 1000]}, "stop", "1000"),
        ({"stop_token_ids": [-2]}, "stop_token_ids", "-2"),
        ({"ignore_eos": 1}, "ignore_eos", "1"),
        ({"max_tokens": 0}, "max_tokens", "0"),
        ({"n": 0}, "n", "0"),
        ({"n": 10**6}, "n", "1000000"),
        ({"logprobs": 21}, "logprobs", "20"),
        ({"regex": 5}, "regex", "5"),
        ({"json_schema": {"a": object()}}, "json_schema", "not JSON"),
        ({"json_schema": {"a": math.nan}}, "json_schema", "not JSON"),
    ],
)
def test_invalid_value_is_named(options, place, said):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**options)
    assert caught.value.place == place
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"min_tokens": 9, "max_tokens": 4}, ("min_tokens 9", "max_tokens 4")),
        ({"temperature": 0, "n": 3}, ("temperature 0", "n 3")),
        ({"json_schema": {}, "regex": "a"}, ("json_schema '{}'", "regex 'a'")),
        ({"regex": "a", "min_tokens": 2}, ("regex 'a'", "min_tokens 2")),
        ({"json_schema": "{}", "ignore_eos": True}, ("json_schema '{}'", "ignore_eos True")),
    ],
)
def test_values_that_exclude_each_other_are_both_named(options, said):
    with pytest.raises(RequestError) as caught:
        SamplingParams(**options)
    assert all(part in str(caught.value) for part in said)


def test_settings_are_plain_values():
    one = SamplingParams(json_schema={"b": 1, "a": 2}, stop=["x"], stop_token_ids=[3])
    assert one.json_schema == '{"b": 1, "a": 2}'
    assert (one.stop, one.stop_token_ids) == (("x",), (3,))
    assert hash(one) == hash(
        SamplingParams(json_schema=one.json_schema, stop=("x",), stop_token_ids=(3,))
    )
