"""Check of the decoders' fast loops against transformers' own forward, in the loaded type."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from adapterhub.backbones.compiled_decoder import CompiledDecoder, StepLinear, linear_modules
from adapterhub.backbones.fast_decoder import FastDecoder
from adapterhub.backbones.float32_model import in_float32, rounding_error
from adapterhub.backbones.path_probes import ProbeAdapter
from adapterhub.backbones.path_reference import probing, sentence_of, text_reference
from adapterhub.backbones.path_runs import PathRuns
from adapterhub.backbones.shallow_model import num_distinct_layers, shallow
from adapterhub.backbones.step_inputs import paged_tokens, step_adapters
from adapterhub.kernels.choice import choose_paged_attention
from adapterhub.kernels.lora.plan import RankSlice, build_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.kernels.attention.paged import PagedBatch

_LOG = logging.getLogger(__name__)


def check_fast_decoder(backbone: Backbone) -> bool:
    """Return whether ``FastDecoder`` is equal, with the compiled kernels and in the loaded type.

    In a narrow type it may differ from transformers' forward in float32 as far as a few roundings
    or transformers' own forward in that type do.
    """
    model: Any = backbone.base_model
    adapter = ProbeAdapter(model)
    return _equals_rounded(backbone, adapter, "fused decoder", lambda: FastDecoder(model))


def check_compiled_decoder(backbone: Backbone) -> bool:
    """Return whether ``CompiledDecoder`` is equal, as ``check_fast_decoder`` does.

    Args:
        backbone: Backbone with adapted layers, for which ``why_not_compiled`` gives no reason.
    """
    model: Any = backbone.base_model
    adapter = ProbeAdapter(model, linear_modules(model))
    runs = partial(_CompiledRuns, model, adapter)
    return _equals_rounded(backbone, adapter, "compiled step", runs)


class _CompiledRuns:
    """Runs the compiled step with a probe adapter in the place of its tables of rank slots."""

    def __init__(self, base_model: Any, adapter: ProbeAdapter) -> None:
        self._model, self._adapter = base_model, adapter
        self._linears = [
            StepLinear(own.base.description, *(each.bfloat16()[None] for each in vectors))
            for own, vectors in zip(linear_modules(base_model), self._vectors(), strict=True)
        ]

    def __call__(self, ids: Tensor, positions: Tensor, paged: PagedBatch) -> Tensor:
        """Return the last hidden states ``[num_tokens, hidden_size]``."""
        strengths = self._adapter.strengths(tuple(ids.shape)).flatten().tolist()
        plan = build_plan([(1, (RankSlice(0, 1, each),) if each else ()) for each in strengths])
        plans = [plan] * len(self._linears)
        step = CompiledDecoder(self._model, self._linears, paged.cache)
        adapters = step_adapters(plans, len(strengths), tiled=step.tiled)
        return step(paged_tokens(ids, positions, paged), adapters)

    def _vectors(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, each in enumerate(linear_modules(self._model)):
            yield self._adapter.vectors(index, each.in_features, each.out_features)


def _equals_rounded(
    backbone: Backbone,
    adapter: ProbeAdapter,
    name: str,
    build: Callable[[], Callable[[Tensor, Tensor, PagedBatch], Tensor]],
) -> bool:
    """Return whether a forward pass of the first layers, in their type, is equal.

    Args:
        build: Returns the forward pass over the layers that are left.
    """
    model: Any = backbone.base_model
    kernel = choose_paged_attention(backbone.device.type)
    runs = PathRuns(model, adapter, decoder=True)
    noise = rounding_error(model)
    try:
        with shallow(model, num_distinct_layers(model)), probing(model), adapter.installed():
            with in_float32(model):
                reference = text_reference(backbone, runs, noise)
            found = runs.paged(reference.probes, backbone.config, build(), kernel)
            reference.compare_rounded(found, [runs.alone(each) for each in reference.probes])
    except Exception as error:  # noqa: BLE001 - any failure means: do not use it
        _LOG.warning("%s: no %s: %s", backbone.name, name, sentence_of(error))
        return False
    return True
