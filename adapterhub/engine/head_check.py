"""Check of how the class for a head can be computed: in parts, and at selected positions alone."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from adapterhub.backbones.media_inputs import media_inputs
from adapterhub.backbones.path_probes import make_probes
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.errors import AdapterHubError
from adapterhub.kernels.attention.transformers_interface import own_attention

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.head_model import HeadModel
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
        padding: Whether padding changes nothing.
    """

    divided: bool = False
    reads_selected: bool = False
    padding: bool = False


#: Number of padding tokens of the padded probe.
_PADDING = 3
#: Number of padding samples of a padded recording.
_PADDED_SAMPLES = 1000


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

    def padding(self, head: AdapterHead, example: EncodedExample) -> bool:
        """Return whether padding on the right does not change what the class computes.

        A class that reads the last position, padded or not, needs batches of one length.
        """
        return self._verdict(head, example).padding

    def _verdict(self, head: AdapterHead, example: EncodedExample) -> _Verdict:
        template = head.template
        if template not in self._verdicts:
            try:
                with torch.no_grad(), own_attention(self._backbone.base_model):
                    verdict, problems = self._compare(template.probe(head), example)
            except (*FAULTS, AdapterHubError) as error:
                verdict, problems = _Verdict(), [str(error)]
            name = type(template.model.model).__name__
            for problem in problems:
                _LOG.info("%s is not computed on the fastest path: %s", name, problem)
            self._verdicts[template] = verdict
        return self._verdicts[template]

    def _compare(self, probe: AdapterHead, example: EncodedExample) -> tuple[_Verdict, list[str]]:
        """Return the verdict on a class, and the reasons why it is not the best."""
        model = probe.model
        inputs = self._inputs(model, example)
        whole = model.forward(inputs)
        padding = self._is_padded_alike(model, inputs, whole)
        fixed = example.media is not None and "attention_mask" not in inputs
        problems = [] if padding or fixed else ["padding changes its output"]
        if model.base_name is None:
            return _Verdict(padding=padding), [*problems, "it has no base model"]
        output = model.base_model(**model.base_inputs(inputs))
        if not self._equal(model.logits_of(output, inputs), whole):
            problem = "it computes more than its base model and a head"
            return _Verdict(padding=padding), [*problems, problem]
        if example.media is not None:
            return _Verdict(divided=True, padding=padding), problems
        selected = self._reads_selected(probe, output.last_hidden_state[0], whole[0])
        if not selected:
            problems.append("its head reads more than the selected positions")
        return _Verdict(True, selected, padding), problems

    def _is_padded_alike(self, model: HeadModel, inputs: dict[str, Any], whole: Tensor) -> bool:
        """Return whether a padded sequence has the logits ``whole`` that it has alone."""
        if "attention_mask" not in inputs:
            return False
        padded = {"attention_mask": F.pad(inputs["attention_mask"], (0, _PADDING))}
        if "input_ids" in inputs:
            padded["input_ids"] = F.pad(
                inputs["input_ids"], (0, _PADDING), value=model.padding_token
            )
        else:
            name = model.model.main_input_name
            padded = {
                name: F.pad(inputs[name], (0, _PADDED_SAMPLES)),
                "attention_mask": F.pad(inputs["attention_mask"], (0, _PADDED_SAMPLES)),
            }
        try:
            found = model.forward(padded)
        except FAULTS:
            return False
        return self._equal(found if found.dim() == 2 else found[:, : whole.shape[1]], whole)

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

    def _inputs(self, model: HeadModel, example: EncodedExample) -> dict[str, Any]:
        device = self._backbone.device
        if example.media is not None:
            dtype = torch_dtype(self._backbone.quantization.compute_dtype)
            media = example.media().to(device, dtype)
            inputs = media_inputs(model.model, [media])
            if media.dim() == 1:
                inputs["attention_mask"] = torch.ones(
                    1, len(media), dtype=torch.long, device=device
                )
            return inputs
        # tokens of a real text may all be the same, and a mean over them is that of any
        tokens = make_probes(self._backbone.base_model, device, segments=False)[0].ids[None]
        if self._backbone.kind == "encoder-decoder":
            # its classes read the state at the end of the text
            tokens = F.pad(tokens, (0, 1), value=self._backbone.tokenizer.eos_token_id or 0)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
