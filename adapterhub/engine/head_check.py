"""Check of how the class for a head can be computed: in parts, and at selected positions alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.path_probes import make_probes
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.errors import AdapterHubError
from adapterhub.kernels.attention.transformers_interface import own_attention

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.packing import EncodedExample
    from adapterhub.engine.heads import AdapterHead, HeadTemplate

_LOG = logging.getLogger(__name__)
#: What transformers' code may raise for a batch that an architecture can't compute.
FAULTS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """How a class can be computed.

    Args:
        divided: Whether it is its base model and then its head.
        reads_selected: Whether the head needs the hidden states of the selected positions alone.
    """

    divided: bool
    reads_selected: bool


class HeadCheck:
    """Compares parts of a class with its whole forward pass, once for each kind of head.

    A class whose head also reads other positions, such as the mean over all tokens, needs the
    padded path, whatever the base model can do.

    Args:
        backbone: Frozen backbone.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._verdicts: dict[HeadTemplate, _Verdict] = {}
        exact = backbone.quantization.compute_dtype == "float32"
        self._tolerance = 1e-4 if exact else 0.05

    def divided(self, head: AdapterHead, example: EncodedExample) -> bool:
        """Return whether the class is its base model and then its head."""
        return self._verdict(head, example).divided

    def reads_selected(self, head: AdapterHead, example: EncodedExample) -> bool:
        """Return whether the head needs the hidden states of the selected positions alone."""
        return self._verdict(head, example).reads_selected

    def _verdict(self, head: AdapterHead, example: EncodedExample) -> _Verdict:
        template = head.template
        if template not in self._verdicts:
            try:
                with torch.no_grad():
                    self._verdicts[template] = self._compare(template.probe(head), example)
            except (*FAULTS, AdapterHubError) as error:
                self._found(template, f"can't be divided: {error}", _Verdict(False, False))
        return self._verdicts[template]

    def _found(self, template: HeadTemplate, problem: str, verdict: _Verdict) -> _Verdict:
        name = type(template.model.model).__name__
        _LOG.info("the head of %s is computed on the padded path: %s", name, problem)
        self._verdicts[template] = verdict
        return verdict

    def _compare(self, probe: AdapterHead, example: EncodedExample) -> _Verdict:
        model, inputs = probe.model, self._inputs(example)
        if model.base_name is None:
            return self._found(probe.template, "has no base model", _Verdict(False, False))
        with own_attention(self._backbone.base_model):
            whole = model.forward(inputs)
            output = model.base_model(**model.base_inputs(inputs))
            parted = model.logits_of(output, inputs)
        if not self._equal(parted, whole):
            problem = "computes more than its base model and a head"
            return self._found(probe.template, problem, _Verdict(False, False))
        if example.pixels is not None:
            return _Verdict(True, False)
        if self._reads_selected(probe, output.last_hidden_state[0], whole[0]):
            return _Verdict(True, True)
        problem = "reads more than the selected positions"
        return self._found(probe.template, problem, _Verdict(True, False))

    def _reads_selected(self, probe: AdapterHead, hidden: Tensor, expected: Tensor) -> bool:
        if probe.kind == "sequence":
            at = 0 if self._backbone.kind == "encoder" else -1
            hidden, expected = hidden[at].unsqueeze(0), expected.unsqueeze(0)
        pooled = probe.template.pool(hidden) if probe.template.shares_pooler else None
        try:
            return self._equal(probe.logits(hidden, pooled), expected)
        except FAULTS:
            return False

    def _equal(self, found: Tensor, expected: Tensor) -> bool:
        if found.shape != expected.shape:
            return False
        scale = float(expected.float().abs().max())
        difference = float((found.float() - expected.float()).abs().max())
        return difference <= self._tolerance * scale

    def _inputs(self, example: EncodedExample) -> dict[str, Any]:
        device = self._backbone.device
        if example.pixels is not None:
            dtype = torch_dtype(self._backbone.quantization.compute_dtype)
            pixels = example.pixels().unsqueeze(0).to(device, dtype)
            return {"pixel_values": pixels, "interpolate_pos_encoding": True}
        # tokens of a real text may all be the same, and a mean over them is that of any
        tokens = make_probes(self._backbone.base_model, device, segments=False)[0].ids[None]
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
