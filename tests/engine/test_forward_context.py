"""Tokens of a padded batch find their adapters in every shape that can be traced to them."""

import pytest

from adapterhub.engine.adapter_slots import BASE_MODEL, Blend, Slot
from adapterhub.engine.forward_context import ForwardContext, PaddedForwardContext
from adapterhub.errors import UntraceableInputError

LAYER, OTHER = 3, 4
A = Blend(((Slot("a", 0, 2, frozenset({LAYER})), 1.0),))
B = Blend(((Slot("b", 2, 4, frozenset({LAYER})), 1.0),))


def spans(plan):
    return [(run.start, run.end, run.slices[0].start) for run in plan.runs]


def test_packed_tokens_keep_their_order_in_any_shape():
    context = ForwardContext([(2, A), (3, BASE_MODEL), (1, B)])
    for shape in ((1, 6, 8), (6, 8), None):
        assert spans(context.plan(LAYER, shape)) == [(0, 2, 0), (5, 6, 2)]


@pytest.mark.parametrize("shape", [(3, 4, 8), (12, 8)])
def test_tokens_of_a_padded_batch_use_their_own_adapter(shape):
    context = PaddedForwardContext([[(2, A)], [(4, BASE_MODEL)], [(1, A), (2, B)]], 4)
    assert spans(context.plan(LAYER, shape)) == [(0, 4, 0), (8, 9, 0), (9, 12, 2)]


def test_padding_on_the_left_uses_the_blend_after_it():
    context = PaddedForwardContext([[(1, A), (1, B)], [(2, B)]], 4, "left")
    assert spans(context.plan(LAYER, (2, 4, 8))) == [(0, 3, 0), (3, 8, 2)]


def test_tokens_with_heads_are_as_many_vectors_as_heads():
    context = PaddedForwardContext([[(1, A), (2, B)], [(3, A)]], 3)
    assert spans(context.plan(LAYER, (2, 3, 5, 8))) == [(0, 5, 0), (5, 15, 2), (15, 30, 0)]


@pytest.mark.parametrize(("shape", "size"), [((2, 8), 1), ((2, 7, 8), 7)])
def test_rows_with_one_adapter_are_found_at_any_number_of_tokens(shape, size):
    context = PaddedForwardContext([[(3, A)], [(1, B)]], 3)
    assert spans(context.plan(LAYER, shape)) == [(0, size, 0), (size, 2 * size, 2)]


def test_windows_of_an_image_lie_together():
    context = PaddedForwardContext([[(1, A)], [(1, B)]], None)
    assert spans(context.plan(LAYER, (8, 9, 4))) == [(0, 36, 0), (36, 72, 2)]


@pytest.mark.parametrize("shape", [(3, 2, 8), (1, 3, 8), (5, 8), (8, 3, 8), (8,)])
def test_a_shape_without_rows_is_refused(shape):
    context = PaddedForwardContext([[(3, A)], [(2, B)]], 3)
    with pytest.raises(UntraceableInputError):
        context.plan(LAYER, shape)


def test_a_row_with_two_adapters_is_refused_where_it_is_one_vector():
    context = PaddedForwardContext([[(1, A), (2, B)], [(3, B)]], 3)
    with pytest.raises(UntraceableInputError):
        context.plan(LAYER, (2, 8))


def test_one_adapter_in_all_rows_is_right_in_any_shape():
    context = PaddedForwardContext([[(3, A)], [(2, A)]], 3)
    assert spans(context.plan(LAYER, (1, 7, 8))) == [(0, 7, 0)]


def test_a_layer_that_no_adapter_changes_needs_no_shape():
    context = PaddedForwardContext([[(3, A)], [(2, B)]], 3)
    assert context.plan(OTHER, (1, 7, 8)) is None
