"""Segmented products in Triton against the formula, over mixes of adapters and ranks."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterhub.kernels.lora.plan import RankSlice, build_plan
from adapterhub.kernels.lora.reference import ReferenceLoraKernel

pytest.importorskip("triton", reason="triton is not installed")

from adapterhub.kernels.lora.plan_buffers import BufferedPlan, PlanBuffers
from adapterhub.kernels.lora.triton import TritonLoraKernel

RANK_SLOTS, WIDTH, OUT = 96, 72, 40
TYPES = [torch.float32, torch.bfloat16, torch.float16]
#: Per type: largest error relative to the largest value. The interpreter cuts off the bits of
#: bfloat16 that a GPU rounds, which is one unit in the last place instead of half of one.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}

#: rank-exact: rank 4 beside rank 33, which is no multiple of what a program multiplies
FOUR, SEVEN, LONG = RankSlice(0, 4, 1.0), RankSlice(4, 7, 0.5), RankSlice(40, 33, -2.0)
ADAPTERS = [(RankSlice(3 * index, 3, 1.0),) for index in range(12)]
MIXES = {
    "distinct": [(1, slices) for slices in ADAPTERS],
    "uniform": [(2, slices) for slices in ADAPTERS[:6] * 2],
    "zipf": [(12 // (rank + 1), slices) for rank, slices in enumerate(ADAPTERS)],
    "identical": [(19, (FOUR,)), (2, ()), (16, (FOUR,))],
    "skewed": [(33, (LONG,)), (1, (FOUR,)), (1, ()), (1, (SEVEN,))],
    "ranks": [(1, (FOUR,)), (1, (LONG,)), (1, (SEVEN,)), (1, (RankSlice(95, 1, 1.0),))],
    "blends": [(2, (FOUR, LONG)), (3, (SEVEN, FOUR, LONG)), (1, (LONG,)), (2, (FOUR, LONG))],
    "repeated slice": [(2, (SEVEN, SEVEN))],
}


def inputs(tokens, dtype, device, width=WIDTH):
    draw = torch.Generator().manual_seed(tokens)
    shapes = ((tokens, OUT), (tokens, width), (RANK_SLOTS, width), (RANK_SLOTS, OUT))
    return [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]


def check(groups, dtype, device, width=WIDTH):
    y, x, a, b = inputs(sum(count for count, _ in groups), dtype, device, width)
    plan = build_plan(groups)
    expected, found = y.clone(), y.clone()
    ReferenceLoraKernel().add_(expected, x, a, b, plan)
    TritonLoraKernel().add_(found, x, a, b, plan)
    bound = TOLERANCE[dtype] * float(expected.abs().max())
    assert float((expected.float() - found.float()).abs().max()) <= bound
    adapted = [bool(slices) for count, slices in groups for _ in range(count)]
    untouched = ~torch.tensor(adapted, device=device)
    assert torch.equal(found[untouched], y[untouched])
    assert not torch.equal(found, y)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("mix", MIXES)
def test_it_equals_the_reference(mix, dtype, device):
    check(MIXES[mix], dtype, device)


def test_ranges_of_the_input_are_summed(device):
    check(MIXES["blends"], torch.float32, device, width=2100)


@st.composite
def mixes(draw):
    groups = [(1, (FOUR,))]
    for _ in range(draw(st.integers(1, 4))):
        slices = []
        for _ in range(draw(st.integers(0, 3))):
            rank = draw(st.sampled_from([1, 4, 16, 17]))
            start = draw(st.integers(0, RANK_SLOTS - rank))
            slices.append(RankSlice(start, rank, draw(st.sampled_from([1.0, 0.0, -2.0]))))
        groups.append((draw(st.sampled_from([1, 2, 18])), tuple(slices)))
    return groups


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(groups=mixes())
def test_it_equals_the_reference_for_any_mix(groups, device):
    check(groups, torch.float32, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_token_does_not_depend_on_its_batch(dtype, device):
    groups = [(1, ADAPTERS[0]), (1, (FOUR, LONG)), (1, ADAPTERS[0]), (1, (LONG,))]
    y, x, a, b = inputs(len(groups), dtype, device)
    together, kernel = y.clone(), TritonLoraKernel()
    kernel.add_(together, x, a, b, build_plan(groups))
    for token, group in enumerate(groups):
        alone = y[token : token + 1].clone()
        kernel.add_(alone, x[token : token + 1].contiguous(), a, b, build_plan([group]))
        assert torch.equal(alone[0], together[token])


def test_nan_inputs_stay_in_their_token(device):
    groups = [(1, (FOUR,)), (1, (FOUR,)), (1, ())]
    y, x, a, b = inputs(3, torch.float32, device)
    x[0] = float("nan")
    TritonLoraKernel().add_(y, x, a, b, build_plan(groups))
    assert y[0].isnan().all()
    assert not y[1:].isnan().any()


def test_rank_slots_of_other_adapters_are_not_read(device):
    y, x, a, b = inputs(1, torch.float32, device)
    a[4:], b[4:] = float("nan"), float("nan")
    TritonLoraKernel().add_(y, x, a, b, build_plan([(1, (FOUR,))]))
    assert not y.isnan().any()


def test_buffers_are_reused_and_serve_several_layers(device):
    buffers = PlanBuffers(device, max_tokens=24, max_slices=8, max_ranks=64, tables=3, layers=3)
    plans = [BufferedPlan(buffers, layer) for layer in range(3)]
    address = buffers.tables.data_ptr()
    small, wide = (
        build_plan([(2, (FOUR,)), (2, (SEVEN, LONG))]),
        build_plan([(1, ()), (20, (LONG,))]),
    )
    # fewer tiles than before: nothing of an earlier step may remain
    one, kernel = build_plan([(1, ()), (1, (FOUR,))]), TritonLoraKernel()
    for filled in (
        [small, wide, None],
        [None, small, small],
        [wide, wide, small],
        [one, None, one],
    ):
        assert buffers.fits(filled)
        buffers.fill(filled)
        for plan, layer in zip(filled, plans, strict=True):
            y, x, a, b = inputs(24, torch.float32, device)
            expected, found = y.clone(), y.clone()
            if plan is not None:
                ReferenceLoraKernel().add_(expected, x, a, b, plan)
            kernel.add_(found, x, a, b, layer)
            assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
            assert plan is not None or torch.equal(found, y)
    assert buffers.tables.data_ptr() == address


def test_plans_beyond_the_capacity_do_not_fit(device):
    buffers = PlanBuffers(device, max_tokens=4, max_slices=2, max_ranks=8, tables=2)
    assert buffers.fits([None])
    assert buffers.fits([build_plan([(4, (FOUR,))])])
    assert not buffers.fits([build_plan([(5, (FOUR,))])])
    assert not buffers.fits([build_plan([(1, (LONG,))])])
    assert not buffers.fits([build_plan([(1, (FOUR,)), (1, (SEVEN,)), (1, (FOUR,))])])
    assert not buffers.fits([build_plan([(1, (FOUR,))]), build_plan([(1, (FOUR,))])])
