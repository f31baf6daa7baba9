"""Check of the forward paths of a backbone against transformers' own forward."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from adapterhub.backbones.compiled_decoder import (
    CompiledDecoder,
    StepLinear,
    linear_modules,
)
from adapterhub.backbones.fast_decoder import FastDecoder
from adapterhub.backbones.float32_model import in_float32, rounding_error
from adapterhub.backbones.path_probes import (
    ProbeAdapter,
    make_images,
    make_probes,
    make_recordings,
    most_positions,
    narrow_windows,
)
from adapterhub.backbones.path_runs import BatchRuns, MediaRuns, PairRuns, PathRuns
from adapterhub.backbones.path_verdict import PADDED_ONLY, ForwardPaths
from adapterhub.backbones.shallow_model import num_distinct_layers, shallow
from adapterhub.backbones.step_inputs import paged_tokens, step_adapters
from adapterhub.kernels.choice import choose_paged_attention
from adapterhub.kernels.lora.plan import RankSlice, build_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.path_probes import AnyProbe, MediaProbe, Probe
    from adapterhub.kernels.attention.paged import PagedBatch

_LOG = logging.getLogger(__name__)

#: Smallest bound of an error, as a share of the spread of the hidden states.
TOLERANCE = 1e-4
#: Bound of an error as a multiple of that of simulated rounding.
_ROUNDINGS = 4.0
#: Largest bound at which a wrong forward pass would still be seen.
_LARGEST_BOUND = 0.3


_P = TypeVar("_P", bound="AnyProbe")


class _Difference(Exception):
    """The hidden states of a path differ from transformers' own."""


@dataclass(frozen=True, slots=True)
class _Reference(Generic[_P]):
    """Hidden states of the probes by transformers' own forward, one at a time.

    Args:
        spread: Root mean square distance of hidden states from their mean.
        bound: Largest error of a hidden state that rounding explains, in units of ``spread``.
    """

    probes: list[_P]
    hidden: list[Tensor]
    spread: float
    bound: float

    def compare(self, found: Sequence[Tensor], expected: Sequence[Tensor] | None = None) -> None:
        """Require equality within the bound.

        Raises:
            _Difference: If a hidden state differs by more.
        """
        pairs = zip(found, expected or self.hidden, strict=True)
        error = max(_error(each, own, self.spread) for each, own in pairs)
        if not error <= self.bound:
            raise _Difference(
                f"hidden states differ by {error:.2g} of their spread (bound {self.bound:.2g})"
            )

    def compare_rounded(self, found: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        """Require that a path is no further from this reference than transformers' own forward.

        The errors of all tokens, in order of size, may be twice as large: each is that of a few
        roundings, which one pass makes in another order than the other.

        Args:
            found: Hidden states of the path, computed in a narrow type.
            own: Those of transformers' own forward in that type.

        Raises:
            _Difference: If an error is larger, or rounding would hide a wrong forward pass.
        """
        errors, rounding = (
            torch.cat([_errors(x, y, self.spread) for x, y in zip(each, self.hidden, strict=True)])
            .sort()
            .values
            for each in (found, own)
        )
        _usable(2 * float(rounding.median()), float(rounding.median()))
        if not bool((errors <= (2 * rounding).clamp(min=self.bound)).all()):
            raise _Difference(
                f"hidden states differ by up to {errors[-1]:.2g} of their spread "
                f"(by rounding {rounding[-1]:.2g})"
            )


def check_forward_paths(backbone: Backbone) -> ForwardPaths:
    """Run all forward paths on a few probes and return which are equal to transformers' own."""
    model: Any = backbone.base_model
    try:
        return _check_layers(backbone, num_distinct_layers(model))
    except Exception:  # noqa: BLE001 - an architecture that can't run with fewer layers
        pass
    try:
        return _check_layers(backbone, 0)
    except Exception as error:  # noqa: BLE001 - there is nothing to compare with
        reason = f"no path could be checked: {_sentence(error)}"
        return replace(PADDED_ONLY, reasons=(reason,))


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
        with shallow(model, num_distinct_layers(model)), _quiet(model), adapter.installed():
            with in_float32(model):
                reference = _text_reference(backbone, runs, noise)
            found = runs.paged(reference.probes, backbone.config, build(), kernel)
            reference.compare_rounded(found, [runs.alone(each) for each in reference.probes])
    except Exception as error:  # noqa: BLE001 - any failure means: do not use it
        _LOG.warning("%s: no %s: %s", backbone.name, name, _sentence(error))
        return False
    return True


def _check_layers(backbone: Backbone, layers: int) -> ForwardPaths:
    """Check with the first layers of a backbone, or all of them if 0.

    Raises:
        Exception: Whatever transformers' own forward raises.
    """
    model: Any = backbone.base_model
    with shallow(model, layers), _quiet(model), in_float32(model):
        adapter = ProbeAdapter(model)
        with adapter.installed():
            rounding = rounding_error(model)
            if backbone.kind == "vision":
                images = make_images(model, backbone.device)
                return _batch_verdict(MediaRuns(model, adapter), images, rounding)
            if backbone.kind == "audio":
                recordings = make_recordings(model, backbone.device)
                return _audio_verdict(MediaRuns(model, adapter), recordings, rounding)
            if backbone.kind == "encoder-decoder":
                probes = make_probes(model, backbone.device, segments=False)
                return _batch_verdict(PairRuns(model, adapter), probes, rounding)
            runs = PathRuns(model, adapter, decoder=backbone.kind == "decoder")
            return _verdict(backbone, runs, _text_reference(backbone, runs, rounding_error(model)))


def _text_reference(backbone: Backbone, runs: PathRuns, noise: float) -> _Reference[Probe]:
    probes = make_probes(backbone.base_model, backbone.device, segments=runs.has_segments)
    return _reference(probes, runs.alone, noise)


def _reference(probes: list[_P], alone: Callable[..., Tensor], rounding: float) -> _Reference[_P]:
    """Return transformers' own hidden states.

    Args:
        rounding: Largest relative rounding error of a product.
    """
    hidden = [alone(probe) for probe in probes]
    states = torch.cat(hidden)
    spread = float((states - states.mean(0)).square().sum(-1).mean().sqrt())
    noise = _error(alone(probes[-1], noise=rounding), hidden[-1], spread)
    bound = _usable(max(TOLERANCE, _ROUNDINGS * noise), noise)
    return _Reference(probes, hidden, spread, bound)


def _usable(bound: float, noise: float) -> float:
    if not bound <= _LARGEST_BOUND:
        raise _Difference(f"rounding alone changes hidden states by {noise:.2g} of their spread")
    return bound


def _batch_verdict(runs: BatchRuns[_P], probes: list[_P], rounding: float) -> ForwardPaths:
    """Return the verdict on a model that has no faster path: of images, recordings, or an
    encoder-decoder.

    Images of one size need no padding.
    """
    reference = _reference(probes, runs.alone, rounding)
    reasons = _Reasons()
    mixed = reasons.holds("mixed adapters", lambda: reference.compare(runs.batched(probes)))
    alike = [probe.without_adapter() for probe in probes]
    padding = mixed or reasons.holds(
        "batches",
        lambda: reference.compare(runs.batched(alike), [runs.alone(probe) for probe in alike]),
    )
    return replace(PADDED_ONLY, padding=padding, mixed=mixed, reasons=tuple(reasons.found))


def _audio_verdict(runs: MediaRuns, probes: list[MediaProbe], rounding: float) -> ForwardPaths:
    """Return the verdict on an audio model; without padding, recordings of one length are mixed.

    Models whose first layer is normalized over time compute another result beside padding.
    """
    verdict = _batch_verdict(runs, probes, rounding)
    if verdict.padding:
        return verdict
    return replace(verdict, mixed=_batch_verdict(runs, probes[1:], rounding).mixed)


def _verdict(backbone: Backbone, runs: PathRuns, reference: _Reference[Probe]) -> ForwardPaths:
    decoder = backbone.kind == "decoder"
    probes, reasons = reference.probes, _Reasons()
    offset = reasons.of("packed sequences", lambda: _packed_offset(backbone, runs, reference))
    packed = offset is not None
    paged = decoder and reasons.holds(
        "the paged KV cache", lambda: reference.compare(runs.paged(probes, backbone.config))
    )
    padding, mixed = _padded(runs, reference, reasons)
    left = decoder and reasons.holds("left padding", lambda: reference.compare(runs.cached(probes)))
    if not reasons.holds(
        "sequences beside a long one", lambda: _check_far(backbone, runs, reference)
    ):
        packed = paged = padding = left = False
    found = tuple(reasons.found)
    return ForwardPaths(packed, paged, offset or 0, padding, left, mixed, found)


def _packed_offset(backbone: Backbone, runs: PathRuns, reference: _Reference[Probe]) -> int:
    """Return the position of the first token at which packed sequences are equal."""
    failure: Exception | None = None
    for offset in _offsets(backbone):
        starts = [offset] * len(reference.probes)
        try:
            reference.compare(runs.packed(reference.probes, starts))
            with torch.enable_grad():
                # has its own kernel
                found = runs.packed(reference.probes, starts)
            reference.compare([each.detach() for each in found])
        except Exception as error:  # noqa: BLE001 - any failure means: not equal
            failure = failure or error
        else:
            return offset
    raise failure or _Difference("no position offset fits")


def _offsets(backbone: Backbone) -> list[int]:
    """Return where positions may start: at 0, or behind the padding index of their table."""
    model: Any = backbone.base_model
    padding = {getattr(model.config.get_text_config(), "pad_token_id", None)}
    padding |= {m.padding_idx for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return [0, *sorted({index + 1 for index in padding if index is not None and index >= 0})]


def _padded(runs: PathRuns, reference: _Reference[Probe], reasons: _Reasons) -> tuple[bool, bool]:
    """Return whether sequences in a padded batch are equal, and those with mixed adapters."""
    probes, hidden = reference.probes, reference.hidden
    try:
        reference.compare(runs.padded(probes))
    except Exception:  # noqa: BLE001 - found out below which of the two it is
        pass
    else:
        return True, True
    alike = [replace(probe, strength=probes[1].strength) for probe in probes]
    padding = reasons.holds(
        "padding",
        lambda: reference.compare(
            runs.padded(alike, traced=False), [runs.alone(probe) for probe in alike]
        ),
    )
    mixed = reasons.holds(
        "mixed adapters", lambda: reference.compare(runs.padded(probes[1:3]), hidden[1:3])
    )
    return padding, mixed


def _check_far(backbone: Backbone, runs: PathRuns, reference: _Reference[Probe]) -> None:
    """Check that a sequence does not depend on how long its neighbours are.

    Rotary embeddings that are chosen by the longest position of a batch do.
    """
    model: Any = backbone.base_model
    if not any(name.endswith("inv_freq") for name, _ in model.named_buffers()):
        return
    probes = reference.probes[1:3]
    try:
        found = runs.padded(probes, traced=False, starts=(0, 2 * most_positions(model)))
    finally:
        # a short sequence resets what a long one grew
        runs.alone(probes[0])
    reference.compare(found[:1], reference.hidden[1:2])


class _Reasons:
    """Runs checks and collects one sentence for each that fails."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def of(self, subject: str, check: Callable[[], Any]) -> Any:
        """Return the result of a check, or ``None`` where it fails."""
        try:
            return check()
        except (_Difference, NotImplementedError) as error:
            self.found.append(f"{subject}: {error}")
        except Exception as error:  # noqa: BLE001 - any failure means: do not use this path
            _LOG.debug("%s", subject, exc_info=True)
            self.found.append(f"{subject}: can't run ({type(error).__name__})")
        return None

    def holds(self, subject: str, check: Callable[[], None]) -> bool:
        """Return whether a check passes."""
        before = len(self.found)
        self.of(subject, check)
        return len(self.found) == before


def _error(found: Tensor, expected: Tensor, spread: float) -> float:
    """Return the largest distance of a hidden state, in units of the spread."""
    if found.shape != expected.shape:
        return math.inf
    return float(_errors(found, expected, spread).max())


def _errors(found: Tensor, expected: Tensor, spread: float) -> Tensor:
    """Return the distance of each hidden state, in units of the spread."""
    distances = (found - expected).square().sum(-1).sqrt() / spread
    return distances.nan_to_num(nan=math.inf, posinf=math.inf)


def _sentence(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, _Difference) else f"{type(error).__name__}: {text}"[:200]


@contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """Evaluate without dropout, gradients, side effects on random numbers, or wide windows."""
    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        devices = [model.device] if model.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(0)
        stack.enter_context(narrow_windows(model))
        # cuDNN rounds to 10 bits
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
