"""What is made of several adapters is what peft makes of them, and the exact sum where promised."""

from dataclasses import replace

import pytest
import torch
from composition_helpers import (
    IDS,
    NAMES,
    adapters_of,
    backbone,
    deltas,
    equal_to_the_bit,
    held_by,
    logits,
    lora,
    peft_deltas,
    peft_model,
    same_deltas,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.adapters.tensor_checks import check_tensors
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.composition import METHODS, MergeMethod, compose
from adapterhub.composition.lora import lora_pairs
from adapterhub.errors import RecipeError
from adapterhub.specs import LoraSpec, PrefixSpec

CONCAT = MergeMethod("concat")
HEAD = "base_model.model.score.weight"
THREE = (lora(), lora(alpha=2.0), lora(alpha=9.0))
WEIGHTS = (0.7, -1.3, 0.4)


def two_heads():
    first, second = adapters_of(lora(), lora())
    return [headed(first, 1.0), headed(second, 4.0)]


def headed(adapter, value, shape=(3, 8)):
    return AdapterWeights(adapter.spec, {**adapter.tensors, HEAD: torch.full(shape, value)})


def seed_after_layers_are_made(model, seed, monkeypatch):
    """Let peft's pruning begin with a seed; it draws start values of the new layers before."""
    make = model.base_model.inject_adapter

    def make_and_seed(*arguments, **named):
        make(*arguments, **named)
        torch.manual_seed(seed)

    monkeypatch.setattr(model.base_model, "inject_adapter", make_and_seed)


def of_peft(model, weights, method, name="all"):
    """Let peft make one adapter of all that a model has."""
    kind = {"concat": "cat"}.get(method.name, method.name)
    model.add_weighted_adapter(
        list(NAMES[: len(weights)]),
        list(weights),
        name,
        combination_type=kind,
        svd_rank=method.rank,
        density=method.kept,
        majority_sign_method=method.majority_sign or "total",
    )
    return peft_deltas(model, name)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_makes_what_peft_makes(name, count, monkeypatch):
    # modules of one kind, so that peft's order of drawing is the sorted one
    specs = [lora(alpha=alpha, targets=("q_proj",)) for alpha in (6.0, 2.0, 9.0)][:count]
    model = peft_model(*specs)
    method = MergeMethod(name, seed=11)
    found = compose(held_by(model), WEIGHTS[:count], method)
    seed_after_layers_are_made(model, 11, monkeypatch)
    same_deltas(deltas(found), of_peft(model, WEIGHTS[:count], method))
    check_tensors(found.spec, (), found.tensors, place="x")


@pytest.mark.parametrize("density", [0.05, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("sign", ["total", "frequency"])
@pytest.mark.parametrize("name", ["ties", "ties_svd"])
def test_density_and_majority_sign_count_as_in_peft(name, sign, density):
    model = peft_model(*THREE)
    method = MergeMethod(name, density=density, majority_sign=sign)
    found = compose(held_by(model), WEIGHTS, method)
    same_deltas(deltas(found), of_peft(model, WEIGHTS, method))


@pytest.mark.parametrize("name", ["concat", "svd", "magnitude_prune_svd"])
def test_ranks_and_targets_may_differ_as_in_peft(name):
    model = peft_model(lora(targets=("q_proj", "v_proj")), lora(rank=7, targets=("v_proj",)))
    found = compose(held_by(model), (1.0, -0.5), MergeMethod(name))
    same_deltas(deltas(found), of_peft(model, (1.0, -0.5), MergeMethod(name)))


def test_rank_stabilised_adapters_are_scaled_once_where_peft_scales_twice():
    model = peft_model(lora(rslora=True), lora(rslora=True))
    found = compose(held_by(model), (1.0, 0.5), CONCAT)
    same_deltas(deltas(found), sums(held_by(model), (1.0, 0.5)))
    assert not found.spec.rslora
    twice = {module: delta * found.spec.rank**0.5 for module, delta in deltas(found).items()}
    same_deltas(twice, of_peft(model, (1.0, 0.5), CONCAT))


@pytest.mark.parametrize("name", ["svd", "magnitude_prune_svd"])
@pytest.mark.parametrize("rank", [1, 3, 12])
def test_svd_methods_cut_to_the_rank_as_peft_does(name, rank):
    model = peft_model(lora(), lora(rank=7, alpha=3.0))
    found = compose(held_by(model), (1.0, -0.5), MergeMethod(name, rank=rank))
    same_deltas(deltas(found), of_peft(model, (1.0, -0.5), MergeMethod(name, rank=rank)))


@pytest.mark.parametrize("name", ["svd", "magnitude_prune_svd"])
def test_a_rank_larger_than_a_side_is_filled_up_with_nothing(name):
    adapters = adapters_of(lora(), lora(rank=40))
    density = 1.0 if METHODS[name].prunes else None
    found = compose(adapters, (1.0, -0.5), MergeMethod(name, density, rank=48))
    same_deltas(deltas(found), sums(adapters, (1.0, -0.5)))
    check_tensors(found.spec, (), found.tensors, place="x")


def sums(adapters, weights):
    """Module to the sum of the deltas; what an adapter does not change gets nothing from it."""
    total = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for module, delta in deltas(adapter).items():
            total[module] = total.get(module, 0) + weight * delta
    return total


SPECS = st.builds(
    lambda rank, alpha, targets, rslora: lora(rank, alpha, tuple(sorted(targets)), rslora=rslora),
    rank=st.integers(1, 6),
    alpha=st.sampled_from([1.0, 6.0, 12.5]),
    targets=st.sets(st.sampled_from(["q_proj", "v_proj", "down_proj", "gate_proj"]), min_size=1),
    rslora=st.booleans(),
)
BLENDS = st.lists(st.tuples(SPECS, st.floats(-2.0, 2.0)), min_size=1, max_size=3)


@settings(max_examples=25, deadline=None)
@given(BLENDS, st.integers(0, 1000))
def test_concat_is_the_sum_whatever_ranks_targets_scales_and_weights(blend, seed):
    specs, weights = zip(*blend, strict=True)
    adapters = adapters_of(*specs, seed=seed)
    found = compose(adapters, weights, CONCAT)
    same_deltas(deltas(found), sums(adapters, weights))
    check_tensors(found.spec, (), found.tensors, place="x")


@settings(max_examples=10, deadline=None)
@given(BLENDS, st.randoms(use_true_random=False))
def test_the_order_of_a_concat_changes_the_answers_by_rounding_alone(blend, random):
    specs, weights = zip(*blend, strict=True)
    adapters = adapters_of(*specs)
    pairs = list(zip(adapters, weights, strict=True))
    random.shuffle(pairs)
    found = logits(compose(*zip(*pairs, strict=True), CONCAT))
    torch.testing.assert_close(found, logits(compose(adapters, weights, CONCAT)), atol=2e-5, rtol=0)


def test_peft_answers_with_a_concat_as_with_all_its_adapters_at_once():
    adapters = adapters_of(lora(), lora(rank=2, alpha=3.0, targets=("v_proj", "o_proj")))
    model = peft_model(lora(), lora(rank=2, alpha=3.0, targets=("v_proj", "o_proj")))
    model.base_model.set_adapter(["first", "second"])
    with torch.inference_mode():
        expected = model(input_ids=IDS).logits
    found = logits(compose(adapters, (1.0, 1.0), CONCAT))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    with torch.inference_mode():
        assert not torch.allclose(found, backbone()(input_ids=IDS).logits, atol=1e-2)


def test_svd_of_the_full_rank_is_the_sum():
    adapters = adapters_of(*THREE)
    found = compose(adapters, WEIGHTS, MergeMethod("svd", rank=12))
    same_deltas(deltas(found), sums(adapters, WEIGHTS))


@settings(max_examples=20, deadline=None)
@given(SPECS, st.integers(0, 1000), st.sampled_from(sorted(METHODS)))
def test_one_adapter_of_weight_one_is_itself_to_the_bit(spec, seed, name):
    (adapter,) = adapters_of(spec, seed=seed)
    density = 1.0 if METHODS[name].prunes else None
    assert equal_to_the_bit(compose([adapter], [1.0], MergeMethod(name, density)), adapter)


@pytest.mark.parametrize(
    "spec", [lora(dora=True, rslora=True), PrefixSpec(num_virtual_tokens=3)], ids=["dora", "prefix"]
)
def test_what_can_not_be_blended_is_itself_alone(spec):
    (adapter,) = adapters_of(spec)
    assert equal_to_the_bit(compose([adapter], [1.0], CONCAT), adapter)


def test_half_precision_is_kept_where_nothing_is_to_be_done_and_read_exactly_else():
    whole = adapters_of(lora(alpha=5.0))[0]
    half = AdapterWeights(whole.spec, {k: t.bfloat16() for k, t in whole.tensors.items()})
    assert equal_to_the_bit(compose([half], [1.0], CONCAT), half)
    found = compose([half, half], [0.3, 0.3], CONCAT)
    assert {tensor.dtype for tensor in found.tensors.values()} == {torch.float32}
    same_deltas(deltas(found), sums([half, half], [0.3, 0.3]))


def test_one_adapter_alone_can_be_pruned_and_cut():
    (adapter,) = adapters_of(lora())
    pruned = compose([adapter], [1.0], MergeMethod("magnitude_prune", density=0.25))
    for key, tensor in pruned.tensors.items():
        kept = tensor != 0
        assert int(kept.sum()) == tensor.numel() // 4
        size = adapter.tensors[key].abs()
        assert size[kept].min() >= size[~kept].max()
    cut = compose([adapter], [1.0], MergeMethod("svd", rank=2))
    for module, delta in deltas(adapter).items():
        best = torch.linalg.svdvals(delta)[2:].norm()
        torch.testing.assert_close((deltas(cut)[module] - delta).norm(), best)


def test_dare_draws_by_its_seed_and_leaves_the_generator_alone():
    adapters = adapters_of(lora(), lora())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = compose(adapters, (1.0, 1.0), MergeMethod("dare_ties", seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal_to_the_bit(first, compose(adapters, (1.0, 1.0), MergeMethod("dare_ties", seed=3)))
    other = compose(adapters, (1.0, 1.0), MergeMethod("dare_ties", seed=4))
    assert not equal_to_the_bit(first, other)


def test_what_goes_in_is_not_changed():
    adapters = [headed(each, 1.0 + n) for n, each in enumerate(adapters_of(lora(), lora()))]
    copies = [{k: t.clone() for k, t in each.tensors.items()} for each in adapters]
    for name in ("concat", "linear", "svd"):
        compose(adapters, (0.5, 1.5), MergeMethod(name))
    for adapter, copy in zip(adapters, copies, strict=True):
        assert all(torch.equal(adapter.tensors[key], copy[key]) for key in copy)


def test_targets_of_all_linear_layers_and_of_some_become_a_list_that_peft_reads():
    some = adapters_of(lora(targets=("q_proj",)))[0]
    listed = adapters_of(lora(rank=2, targets=("q_proj", "o_proj", "up_proj")))[0]
    every = AdapterWeights(replace(listed.spec, target_modules=("all-linear",)), listed.tensors)
    found = compose([some, every], (1.0, 1.0), CONCAT)
    assert "model.layers.0.self_attn.q_proj" in found.spec.target_modules
    check_tensors(found.spec, (), found.tensors, place="x")
    same_deltas(deltas(found), sums([some, every], (1.0, 1.0)))
    assert logits(found).shape[-1] == 64
    assert (
        compose([every, every], (1.0, 1.0), CONCAT).spec.target_modules == every.spec.target_modules
    )


def test_prefixes_are_concatenated():
    specs = [PrefixSpec(num_virtual_tokens=3), PrefixSpec(num_virtual_tokens=2, projection=True)]
    tensors = [torch.randn(spec.num_virtual_tokens, 64) for spec in specs]
    adapters = [
        AdapterWeights(spec, {"prompt_embeddings": tensor})
        for spec, tensor in zip(specs, tensors, strict=True)
    ]
    found = compose(adapters, (1.0, 1.0), CONCAT)
    assert found.spec == PrefixSpec(num_virtual_tokens=5)
    assert torch.equal(found.tensors["prompt_embeddings"], torch.cat(tensors))
    check_tensors(found.spec, (), found.tensors, place="x")
    with pytest.raises(RecipeError, match="their weight must be 1"):
        compose(adapters, (1.0, 0.5), CONCAT)
    with pytest.raises(RecipeError, match="'linear' is for LoRA"):
        compose(adapters, (1.0, 1.0), MergeMethod("linear"))
    with pytest.raises(RecipeError, match="cannot be merged"):
        compose([adapters[0], *adapters_of(lora())], (1.0, 1.0), CONCAT)


@pytest.mark.parametrize("name", ["concat", "linear", "svd"])
def test_heads_are_averaged_by_weight(name):
    found = compose(two_heads(), (1.0, 0.5), MergeMethod(name))
    torch.testing.assert_close(found.tensors[HEAD], torch.full((3, 8), 2.0))


@pytest.mark.parametrize(
    ("name", "weights", "problem"),
    [
        ("ties", (1.0, 1.0), "'ties' cannot merge different heads"),
        ("concat", (1.0, -0.5), "by weights that are not negative"),
        ("concat", (0.0, 0.0), "by weights that are not negative"),
    ],
)
def test_different_heads_must_be_chosen_where_they_cannot_be_averaged(name, weights, problem):
    adapters = two_heads()
    with pytest.raises(RecipeError, match=problem) as caught:
        compose(adapters, weights, MergeMethod(name))
    assert "--head-from" in str(caught.value)
    found = compose(adapters, weights, MergeMethod(name), head_from=1)
    assert torch.equal(found.tensors[HEAD], adapters[1].tensors[HEAD])


def test_equal_heads_are_kept_by_every_method():
    adapters = [headed(each, 0.1) for each in adapters_of(lora(), lora())]
    for name in METHODS:
        found = compose(adapters, (1.0, -0.5), MergeMethod(name))
        assert torch.equal(found.tensors[HEAD], adapters[0].tensors[HEAD])


def test_a_head_that_one_adapter_lacks_or_has_in_another_shape_must_be_chosen():
    first, second = adapters_of(lora(), lora())
    for other in (second, headed(second, 1.0, (4, 8))):
        with pytest.raises(RecipeError, match="the same modules in full"):
            compose([headed(first, 1.0), other], (1.0, 1.0), CONCAT)


@pytest.mark.parametrize(
    ("specs", "weights", "method", "problem"),
    [
        (
            (lora(), lora(rank=2)),
            (1.0, 1.0),
            MergeMethod("linear"),
            "adapters of one rank, found 2, 4",
        ),
        ((lora(), lora(rank=2)), (1.0, 1.0), MergeMethod("ties"), "adapters of one rank"),
        ((lora(dora=True), lora(dora=True)), (1.0, 1.0), CONCAT, "a DoRA adapter"),
        ((lora(dora=True),), (0.5,), CONCAT, "a DoRA adapter"),
        ((lora(),), (1.0, 1.0), CONCAT, "1 adapters and 2 weights"),
        ((lora(),), (float("nan"),), CONCAT, "nan is not a weight"),
    ],
)
def test_adapters_that_cannot_be_merged_are_rejected(specs, weights, method, problem):
    with pytest.raises(RecipeError, match=problem):
        compose(adapters_of(*specs), weights, method)


def test_nothing_and_a_head_of_nobody_are_refused():
    with pytest.raises(RecipeError, match="0 adapters"):
        compose([], [], CONCAT)
    with pytest.raises(RecipeError, match="there is no adapter 2 among 1"):
        compose(adapters_of(lora()), [0.5], CONCAT, head_from=2)


def test_adapters_of_another_width_are_refused():
    (adapter,) = adapters_of(lora())
    wider = {k: t.repeat(1, 2) if "lora_A" in k else t for k, t in adapter.tensors.items()}
    with pytest.raises(RecipeError, match="made for different backbones"):
        compose([adapter, AdapterWeights(adapter.spec, wider)], (1.0, 1.0), MergeMethod("linear"))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"name": "tise"}, "Did you mean 'ties'?"),
        (
            {"name": "concat", "density": 0.5},
            "composition.density: the method 'concat'",
        ),
        ({"name": "linear", "rank": 4}, "composition.rank: the method 'linear' does not use it"),
        ({"name": "svd", "majority_sign": "total"}, "composition.majority_sign: the method 'svd'"),
        ({"name": "ties", "density": 0.0}, "above 0 and up to 1, found 0.0"),
        ({"name": "ties", "density": 1.5}, "above 0 and up to 1, found 1.5"),
        ({"name": "svd", "rank": 0}, "must be 1 or more, found 0"),
        ({"name": "ties", "majority_sign": "most"}, "must be total or frequency, found 'most'"),
    ],
)
def test_settings_that_a_method_does_not_have_are_refused(arguments, problem):
    with pytest.raises(RecipeError) as caught:
        MergeMethod(**arguments)
    assert problem in str(caught.value)


def test_lora_on_embeddings_is_not_composed():
    tensors = {
        "base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(2, 8),
        "base_model.model.model.embed_tokens.lora_embedding_B": torch.zeros(4, 2),
    }
    spec = LoraSpec(rank=2, alpha=2.0, target_modules=("embed_tokens",))
    with pytest.raises(RecipeError, match="LoRA on embeddings cannot be merged"):
        lora_pairs(AdapterWeights(spec, tensors), spec)
