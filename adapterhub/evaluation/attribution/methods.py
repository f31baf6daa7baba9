"""Attribution of a target number to the words of an input, by Captum.

Encoders are explained by integrated gradients over word embeddings,

    a_i = (x_i - b_i) . integral over t from 0 to 1 of dF(b + t (x - b)) / dx_i

which add up to ``F(x) - F(b)``, up to the error of a finite sum.
Source: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks",
arXiv:1703.01365.

Decoders are explained by ablation of one word at a time,

    a_i = F(x) - F(x without x_i)

because gradients along such a path are unreliable: a decoder normalizes by the size of its input,
points between two embeddings are far from anything it was trained on, and it has no mask token.
Source: Li, Monroe and Jurafsky 2016, "Understanding Neural Networks through Representation
Erasure", arXiv:1612.08220.

Recordings are explained by ablation too: one part of equal length is silent at a time.
"""

from __future__ import annotations

from bisect import bisect
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import BackboneError, DataError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.attribution import AttributionInput, Target

#: Integrated gradients, or ablation of one word at a time.
AttributionMethod: TypeAlias = Literal["gradients", "ablation"]
#: Default number of integration steps. Source: the paper, section 5: 20 to 300 suffice.
STEPS = 50
#: Baseline of the parts of a recording.
SILENCE = "silence"
#: Maximum number of tokens per forward pass.
BATCH_TOKENS = 1024
#: Candidates for the baseline token in order of preference.
_BASELINES = ("mask_token", "unk_token", "pad_token", "eos_token")


@dataclass(frozen=True, slots=True)
class Attribution:
    """Attributions of a target to the words of an input.

    Args:
        words: Attribution of each word; 0 for a word that was truncated.
        baseline_value: Target value of the baseline; ``None`` for ablation.
        baseline: Baseline token; empty for ablation, ``SILENCE`` of a recording's parts.
        steps: Number of integration steps; 0 for ablation.
    """

    words: Sequence[float]
    value: float
    baseline_value: float | None
    baseline: str
    method: AttributionMethod
    steps: int

    @property
    def gap(self) -> float | None:
        """Convergence delta: sum of attributions less the difference that they should add up to.

        ``None`` for ablation, whose attributions need not add up.
        """
        if self.baseline_value is None:
            return None
        return sum(self.words) - (self.value - self.baseline_value)


def method_for(model: TaskModel) -> AttributionMethod:
    """Return the reliable method for a backbone; see the module's docstring."""
    decoder = model.backbone.kind == "decoder"
    return "gradients" if model.takes_embeddings and not decoder else "ablation"


def attribute(
    model: TaskModel,
    inputs: AttributionInput,
    target: Target,
    *,
    steps: int = STEPS,
    method: AttributionMethod | None = None,
) -> Attribution:
    """Attribute a target to the words of an input.

    The baseline replaces each token of a word by the baseline token; ablation removes the tokens
    of a word, except a token that the head reads, which becomes the baseline token. Tokens of no
    word are kept. Gradients of the backbone's weights are not computed.

    Args:
        method: Attribution method; default ``method_for(model)``.
    """
    if inputs.without is not None and method == "gradients":
        raise DataError(
            "a recording is explained by the silence of its parts",
            place="method",
            hint="Use ablation, or leave it out",
        )
    if inputs.without is not None or (method or method_for(model)) == "ablation":
        return _feature_ablation(model, inputs, target)
    return _integrated_gradients(model, inputs, target, steps)


def baseline_token(model: TaskModel) -> tuple[str, int]:
    """Return text and id of the token that replaces words in the baseline.

    It is the mask token where there is one, which encoders were pretrained with; else the unknown,
    padding or end-of-text token. Tokens with an all-zero embedding are skipped, because decoders
    normalize by the size of their input.
    """
    tokenizer, device = model.backbone.tokenizer, model.backbone.device
    for attribute_name in _BASELINES:
        text = getattr(tokenizer, attribute_name, None)
        if text is None:
            continue
        index = int(tokenizer.convert_tokens_to_ids(text))
        with torch.no_grad():
            if bool(model.embed(torch.tensor([index], device=device)).any()):
                return text, index
    raise BackboneError("the tokenizer has no usable baseline token", place=model.backbone.name)


@contextmanager
def eval_mode(model: TaskModel) -> Iterator[None]:
    """Switch the model to evaluation mode, and restore the mode of each module on exit.

    The modules of a loaded model differ in mode, so setting one mode for all would not restore it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _integrated_gradients(
    model: TaskModel, inputs: AttributionInput, target: Target, steps: int
) -> Attribution:
    """Integrate gradients in float32, whatever the compute type of the backbone."""
    captum = _captum()
    name, token = baseline_token(model)
    with eval_mode(model):
        embedded, baseline, dtype = _embeddings(model, inputs, token)

        def measure(points: Tensor) -> Tensor:
            return target.measure(_logits(model, inputs, points, dtype))

        with torch.no_grad():
            value, baseline_value = measure(torch.cat((embedded, baseline))).tolist()
        attributions: Tensor = captum.IntegratedGradients(measure).attribute(
            embedded.requires_grad_(),
            baseline,
            n_steps=steps,
            internal_batch_size=max(1, BATCH_TOKENS // len(inputs.example)),
        )
    tokens = attributions[0].detach().double().sum(dim=-1).tolist()
    words = [0.0] * len(inputs.words)
    for owner, attribution in zip(inputs.owners, tokens, strict=True):
        if owner is not None:
            words[owner] += attribution
    return Attribution(words, value, baseline_value, name, "gradients", steps)


def _feature_ablation(model: TaskModel, inputs: AttributionInput, target: Target) -> Attribution:
    """Remove one word at a time, or silence a part of a recording."""
    captum = _captum()
    remove = inputs.without
    if remove is None:
        remove = partial(_without, inputs, baseline=baseline_token(model)[1])
    features = sorted({owner for owner in inputs.owners if owner is not None})
    selected = len(inputs.example.select)

    def measure(present: Tensor) -> Tensor:
        """Return the target for each mask of present words, ``[batch, words]``."""
        absent = [
            {f for f, kept in zip(features, mask, strict=True) if not kept} for mask in present
        ]
        batch = pack([remove(words) for words in absent])
        logits = model.head(model.hidden(batch.to(model.backbone.device))).float()
        return target.measure(logits.view(len(absent), selected, -1)).cpu()

    full = torch.ones(1, len(features))
    with eval_mode(model), torch.no_grad():
        value = float(measure(full))
        attributions: Tensor = captum.FeatureAblation(measure).attribute(
            full,
            torch.zeros_like(full),
            perturbations_per_eval=max(1, BATCH_TOKENS // len(inputs.example)),
        )
    words = [0.0] * len(inputs.words)
    for feature, attribution in zip(features, attributions[0].tolist(), strict=True):
        words[feature] = attribution
    baseline = "" if inputs.without is None else SILENCE
    return Attribution(words, value, None, baseline, "ablation", 0)


def _without(inputs: AttributionInput, absent: Collection[int], baseline: int) -> EncodedExample:
    """Return the example without some of its words.

    If the head reads one token and it is removed, the head reads the nearest token before it. If
    the head reads several, they are replaced by the baseline token instead of removed.
    """
    example = inputs.example
    removed = [owner in absent for owner in inputs.owners]
    single = len(example.select) == 1
    kept = [
        at for at, out in enumerate(removed) if not out or (not single and at in example.select)
    ]
    if not kept:
        kept = [example.select[0]]
    places = {at: place for place, at in enumerate(kept)}
    return replace(
        example,
        input_ids=[baseline if removed[at] else example.input_ids[at] for at in kept],
        select=[
            places[at] if at in places else max(bisect(kept, at) - 1, 0) for at in example.select
        ],
        segment_ids=[example.segment_ids[at] for at in kept] if example.segment_ids else (),
    )


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise MissingExtraError("captum", "report") from None
    return captum.attr


def _embeddings(
    model: TaskModel, inputs: AttributionInput, baseline: int
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Return float32 embeddings of input and baseline, ``[1, tokens, hidden]``, and their type."""
    input_ids = torch.tensor(inputs.example.input_ids, device=model.backbone.device)
    replaced = input_ids.clone()
    replaced[[at for at, owner in enumerate(inputs.owners) if owner is not None]] = baseline
    with torch.no_grad():
        embedded, without = model.embed(input_ids), model.embed(replaced)
    return embedded.float().unsqueeze(0), without.float().unsqueeze(0), embedded.dtype


def _logits(
    model: TaskModel, inputs: AttributionInput, embedded: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the head's outputs for interpolated embeddings, ``[points, selected, classes]``.

    Args:
        embedded: Embeddings in float32, ``[points, tokens, hidden]``.
    """
    points, _, width = embedded.shape
    batch = pack([inputs.example] * points).to(model.backbone.device)
    flat = embedded.reshape(-1, width)
    flat = F.pad(flat, (0, 0, 0, len(batch.input_ids) - len(flat)))
    hidden = model.hidden(batch, flat.to(dtype))
    logits: Tensor = model.head(hidden).float()
    return logits.view(points, len(inputs.example.select), -1)
