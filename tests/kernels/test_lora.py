"""Segmented LoRA products: the CPU kernel against the reference, over mixes of adapters."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.kernels.lora.cpu import CpuLoraKernel
from adapterhub.kernels.lora.plan import RankSlice, build_plan
from adapterhub.kernels.lora.reference import ReferenceLoraKernel

RANK_SLOTS, WIDTH, OUT = 64, 48, 40
#: Per type: largest error relative to the largest value.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@st.composite
def mixes(draw):
    """Draw groups of tokens, each without adapter, with one, or with a blend."""
    groups = []
    for _ in range(draw(st.integers(1, 6))):
        slices = []
        for _ in range(draw(st.integers(0, 3))):
            rank = draw(st.sampled_from([1, 2, 4, 7, 16]))
            start = draw(st.integers(0, RANK_SLOTS - rank))
            slices.append(RankSlice(start, rank, draw(st.sampled_from([1.0, 0.5, -2.0]))))
        groups.append((draw(st.sampled_from([1, 1, 2, 5, 30, 140])), tuple(slices)))
    return groups


def inputs(tokens, dtype, seed=0, width=WIDTH, out=OUT):
    draw = torch.Generator().manual_seed(seed)
    shapes = ((tokens, out), (tokens, width), (RANK_SLOTS, width), (RANK_SLOTS, out))
    return [torch.randn(shape, generator=draw).to(dtype) for shape in shapes]


# the second widths are those of matrix tiles, and more outputs than are computed at once
@pytest.mark.parametrize("widths", [(WIDTH, OUT), (64, 224)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(max_examples=40, deadline=None)
@given(groups=mixes())
def test_the_cpu_kernel_equals_the_reference(dtype, widths, groups):
    plan = build_plan(groups)
    y, x, a, b = inputs(sum(count for count, _ in groups), dtype, 0, *widths)
    if plan is None:
        assert all(not slices for _, slices in groups)
        return
    expected, found = y.clone(), y.clone()
    ReferenceLoraKernel().add_(expected, x, a, b, plan)
    CpuLoraKernel().add_(found, x, a, b, plan)
    bound = TOLERANCE[dtype] * max(1.0, float(expected.abs().max()))
    assert float((expected.float() - found.float()).abs().max()) <= bound


@pytest.mark.parametrize("kernel", [ReferenceLoraKernel(), CpuLoraKernel()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_without_adapter_are_unchanged(kernel, dtype):
    y, x, a, b = inputs(7, dtype)
    before = y.clone()
    plan = build_plan([(2, ()), (3, (RankSlice(8, 4, 1.0),)), (2, ())])
    kernel.add_(y, x, a, b, plan)
    assert torch.equal(y[:2], before[:2])
    assert torch.equal(y[5:], before[5:])
    assert not torch.equal(y[2:5], before[2:5])


@pytest.mark.parametrize("kernel", [ReferenceLoraKernel(), CpuLoraKernel()])
def test_runs_of_whole_tiles_leave_other_tokens_unchanged(kernel):
    y, x, a, b = inputs(300, torch.bfloat16, width=64, out=96)
    before, slices = y.clone(), (RankSlice(3, 7, 1.0),)
    kernel.add_(y, x, a, b, build_plan([(9, ()), (40, slices), (100, ()), (133, slices), (18, ())]))
    for changed, kept in ((slice(9, 49), slice(0, 9)), (slice(149, 282), slice(282, 300))):
        assert not torch.equal(y[changed], before[changed])
        assert torch.equal(y[kept], before[kept])
    assert torch.equal(y[49:149], before[49:149])


@pytest.mark.parametrize("kernel", [ReferenceLoraKernel(), CpuLoraKernel()])
def test_a_token_does_not_depend_on_its_batch(kernel):
    y, x, a, b = inputs(6, torch.bfloat16)
    slices = [(RankSlice(4 * index, 4, 1.0),) for index in range(6)]
    together = y.clone()
    kernel.add_(together, x, a, b, build_plan([(1, each) for each in slices]))
    for index, each in enumerate(slices):
        alone = y[index : index + 1].clone()
        kernel.add_(alone, x[index : index + 1].clone(), a, b, build_plan([(1, each)]))
        assert torch.equal(alone[0], together[index])


@pytest.mark.parametrize("kernel", [ReferenceLoraKernel(), CpuLoraKernel()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_blend_is_the_sum_of_its_adapters(kernel, dtype):
    y, x, a, b = inputs(4, dtype)
    zero = torch.zeros_like(y)
    first, second, both = zero.clone(), zero.clone(), zero.clone()
    kernel.add_(first, x, a, b, build_plan([(4, (RankSlice(0, 8, 0.7),))]))
    kernel.add_(second, x, a, b, build_plan([(4, (RankSlice(20, 3, 0.3),))]))
    kernel.add_(both, x, a, b, build_plan([(4, (RankSlice(0, 8, 0.7), RankSlice(20, 3, 0.3)))]))
    assert torch.allclose(both, first + second, rtol=2e-2, atol=TOLERANCE[dtype] * 10)


def test_neighbours_with_the_same_slices_are_one_run():
    slices = (RankSlice(0, 4, 1.0),)
    plan = build_plan([(1, slices), (2, slices), (1, ()), (1, slices)])
    assert [(run.start, run.end) for run in plan.runs] == [(0, 3), (4, 5)]
    assert build_plan([(3, ())]) is None
