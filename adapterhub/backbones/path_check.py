"""Check of the forward paths of a backbone against transformers' own forward."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from adapterhub.backbones.float32_model import in_float32, rounding_error
from adapterhub.backbones.path_probes import (
    ProbeAdapter,
    make_images,
    make_probes,
    make_recordings,
    most_positions,
)
from adapterhub.backbones.path_reference import (
    Difference,
    make_reference,
    probing,
    sentence_of,
    text_reference,
)
from adapterhub.backbones.path_runs import BatchRuns, MediaRuns, PairRuns, PathRuns
from adapterhub.backbones.path_verdict import PADDED_ONLY, ForwardPaths
from adapterhub.backbones.shallow_model import num_distinct_layers, shallow

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.path_probes import AnyProbe, MediaProbe, Probe
    from adapterhub.backbones.path_reference import Reference

_LOG = logging.getLogger(__name__)
_P = TypeVar("_P", bound="AnyProbe")


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
        reason = f"no path could be checked: {sentence_of(error)}"
        return replace(PADDED_ONLY, reasons=(reason,))


def _check_layers(backbone: Backbone, layers: int) -> ForwardPaths:
    """Check with the first layers of a backbone, or all of them if 0.

    Raises:
        Exception: Whatever transformers' own forward raises.
    """
    model: Any = backbone.base_model
    with shallow(model, layers), probing(model), in_float32(model):
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
            return _verdict(backbone, runs, text_reference(backbone, runs, rounding_error(model)))


def _batch_verdict(runs: BatchRuns[_P], probes: list[_P], rounding: float) -> ForwardPaths:
    """Return the verdict on a model that has no faster path: of images, recordings, or an
    encoder-decoder.

    Images of one size need no padding.
    """
    reference = make_reference(probes, runs.alone, rounding)
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


def _verdict(backbone: Backbone, runs: PathRuns, reference: Reference[Probe]) -> ForwardPaths:
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


def _packed_offset(backbone: Backbone, runs: PathRuns, reference: Reference[Probe]) -> int:
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
    raise failure or Difference("no position offset fits")


def _offsets(backbone: Backbone) -> list[int]:
    """Return where positions may start: at 0, or behind the padding index of their table."""
    model: Any = backbone.base_model
    padding = {getattr(model.config.get_text_config(), "pad_token_id", None)}
    padding |= {m.padding_idx for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    return [0, *sorted({index + 1 for index in padding if index is not None and index >= 0})]


def _padded(runs: PathRuns, reference: Reference[Probe], reasons: _Reasons) -> tuple[bool, bool]:
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


def _check_far(backbone: Backbone, runs: PathRuns, reference: Reference[Probe]) -> None:
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
        except (Difference, NotImplementedError) as error:
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
