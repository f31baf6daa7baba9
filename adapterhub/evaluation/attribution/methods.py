"""What each word of a row did for a number, by Captum: along a path, or word by word.

Encoders are explained by integrated gradients over the embeddings of the words,

    a_i = (x_i - b_i) . integral over t from 0 to 1 of dF(b + t (x - b)) / dx_i

which add up to ``F(x) - F(b)``, but for what the sum over finitely many steps leaves.
Source: Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks",
arXiv:1703.01365.

A decoder's number jumps on such a path, because it divides by the size of what it reads and
what lies between two embeddings is nothing that it has ever read. Nor has it a token for an
unknown word: what ends a text makes it forget what was before. So its words are left out, one
at a time,

    a_i = F(x) - F(x without x_i)

which reads nothing but texts. Source: Li, Monroe and Jurafsky 2016, "Understanding Neural
Networks through Representation Erasure", arXiv:1612.08220.
"""

from __future__ import annotations

from bisect import bisect
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch.nn import functional as F

from adapterhub.data.packing import pack
from adapterhub.errors import BackboneError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from torch import Tensor

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.attribution import AttributionInput, Target

#: Along a path from unknown words, or by leaving out one word after the other.
AttributionMethod: TypeAlias = Literal["gradients", "ablation"]
#: Points of the path. Source: the paper, section 5: 20 to 300 are enough.
STEPS = 50
#: Tokens computed at once.
BATCH_TOKENS = 1024
#: What may stand for an unknown word, the best first.
_BASELINES = ("mask_token", "unk_token", "pad_token", "eos_token")


@dataclass(frozen=True, slots=True)
class Attribution:
    """What each word did for an answer.

    Args:
        words: for each word of the reading, by how much it moved the number; 0 for a word that
            was cut off.
        value: of the number.
        baseline_value: of the number when every word is unknown; ``None`` where words are left
            out.
        baseline: the token that stands for an unknown one; empty where words are left out.
        method: by which it was found.
        steps: points of the path; 0 where there is none.
    """

    words: Sequence[float]
    value: float
    baseline_value: float | None
    baseline: str
    method: AttributionMethod
    steps: int

    @property
    def gap(self) -> float | None:
        """By how much the attributions miss the difference that they should add up to.

        ``None`` where they need not add up.
        """
        if self.baseline_value is None:
            return None
        return sum(self.words) - (self.value - self.baseline_value)


def method_for(model: TaskModel) -> AttributionMethod:
    """Return the method whose numbers can be trusted for a backbone; see above."""
    return "ablation" if model.backbone.kind == "decoder" else "gradients"


def attribute(
    model: TaskModel,
    reading: AttributionInput,
    target: Target,
    *,
    steps: int = STEPS,
    method: AttributionMethod | None = None,
) -> Attribution:
    """Return what each word did for the number of ``target``.

    A word is unknown where one token that says nothing stands for each of its own. A word that
    is left out leaves nothing, but for a token that the head is read at, which becomes unknown.
    Tokens of no word stay as they are all along. The backbone's weights are not touched.

    Args:
        model: with its adapter active.
        reading: the row.
        target: what is explained.
        steps: points of the path, where there is one.
        method: by which; that of ``method_for`` where not given.

    Raises:
        MissingExtraError: when Captum isn't installed.
        BackboneError: when the tokenizer has no token that can stand for an unknown one.
    """
    if (method or method_for(model)) == "ablation":
        return _word_by_word(model, reading, target)
    return _along_a_path(model, reading, target, steps)


def _along_a_path(
    model: TaskModel, reading: AttributionInput, target: Target, steps: int
) -> Attribution:
    """Integrate gradients; path and sums are in float32, whatever the backbone computes in."""
    captum = _captum()
    name, token = baseline_token(model)
    example = reading.example
    places = [at for at, owner in enumerate(reading.owners) if owner is not None]
    with evaluating(model):
        real, unknown, dtype = _ends(model, example.input_ids, places, token)

        def measure(embedded: Tensor) -> Tensor:
            return target.measure(_logits(model, reading, embedded, dtype))

        with torch.no_grad():
            value, baseline_value = measure(torch.cat((real, unknown))).tolist()
        shares: Tensor = captum.IntegratedGradients(measure).attribute(
            real.requires_grad_(),
            unknown,
            n_steps=steps,
            internal_batch_size=max(1, BATCH_TOKENS // len(example)),
        )
    tokens = shares[0].detach().double().sum(dim=-1).tolist()
    words = [0.0] * len(reading.words)
    for owner, share in zip(reading.owners, tokens, strict=True):
        if owner is not None:
            words[owner] += share
    return Attribution(words, value, baseline_value, name, "gradients", steps)


def _word_by_word(model: TaskModel, reading: AttributionInput, target: Target) -> Attribution:
    """Let Captum leave out one word after the other."""
    captum = _captum()
    _, token = baseline_token(model)
    read = sorted({owner for owner in reading.owners if owner is not None})
    selected = len(reading.example.select)

    def measure(there: Tensor) -> Tensor:
        """Return the number of rows in which some words are there, ``[rows, words]``."""
        absent = [{o for o, here in zip(read, row, strict=True) if not here} for row in there]
        batch = pack([_without(reading, words, token) for words in absent])
        logits = model.head(model.hidden(batch.to(model.backbone.device))).float()
        return target.measure(logits.view(len(absent), selected, -1)).cpu()

    everything = torch.ones(1, len(read))
    with evaluating(model), torch.no_grad():
        value = float(measure(everything))
        shares: Tensor = captum.FeatureAblation(measure).attribute(
            everything,
            torch.zeros_like(everything),
            perturbations_per_eval=max(1, BATCH_TOKENS // len(reading.example)),
        )
    words = [0.0] * len(reading.words)
    for owner, share in zip(read, shares[0].tolist(), strict=True):
        words[owner] = share
    return Attribution(words, value, None, "", "ablation", 0)


def _without(reading: AttributionInput, absent: Collection[int], unknown: int) -> EncodedExample:
    """Return a row without some of its words.

    A row that is read once is read at its nearest token before, where that one is left out; of
    a row that is read at several, each keeps its place.
    """
    example = reading.example
    gone = [owner in absent for owner in reading.owners]
    once = len(example.select) == 1
    kept = [at for at, out in enumerate(gone) if not out or (not once and at in example.select)]
    if not kept:
        kept = [example.select[0]]
    places = {at: place for place, at in enumerate(kept)}
    return replace(
        example,
        input_ids=[unknown if gone[at] else example.input_ids[at] for at in kept],
        select=[
            places[at] if at in places else max(bisect(kept, at) - 1, 0) for at in example.select
        ],
        segment_ids=[example.segment_ids[at] for at in kept] if example.segment_ids else (),
    )


def baseline_token(model: TaskModel) -> tuple[str, int]:
    """Return the token that stands for an unknown word, as text and id.

    It is the mask where there is one, which an encoder was pretrained to read in place of a
    word; else the unknown token, the padding, or the end of a text. One that is embedded as
    nothing but zeros is passed over: decoders divide by the size of what they read.

    Raises:
        BackboneError: when there is none of them.
    """
    tokenizer, device = model.backbone.tokenizer, model.backbone.device
    for each in _BASELINES:
        text = getattr(tokenizer, each, None)
        if text is None:
            continue
        index = int(tokenizer.convert_tokens_to_ids(text))
        with torch.no_grad():
            if bool(model.embed(torch.tensor([index], device=device)).any()):
                return text, index
    raise BackboneError("the tokenizer has no token that says nothing", place=model.backbone.name)


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError:
        raise MissingExtraError("captum", "report") from None
    return captum.attr


@contextmanager
def evaluating(model: TaskModel) -> Iterator[None]:
    """Compute as in evaluation while entered; every module then has the mode that it had.

    A loaded model is not in one mode throughout, so setting one for all would not undo it.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _ends(
    model: TaskModel, ids: Sequence[int], places: Sequence[int], token: int
) -> tuple[Tensor, Tensor, torch.dtype]:
    """Return both ends of the path, the row first, and the type that the body reads.

    The ends are ``[1, tokens, width]`` in float32.
    """
    row = torch.tensor(ids, device=model.backbone.device)
    without = row.clone()
    without[list(places)] = token
    with torch.no_grad():
        real, unknown = model.embed(row), model.embed(without)
    return real.float().unsqueeze(0), unknown.float().unsqueeze(0), real.dtype


def _logits(
    model: TaskModel, reading: AttributionInput, embedded: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return the head's outputs for points of the path, ``[points, selected, classes]``.

    Args:
        model: computes them.
        reading: the row.
        embedded: ``[points, tokens, width]`` in float32.
        dtype: that the body reads.
    """
    points, _, width = embedded.shape
    batch = pack([reading.example] * points).to(model.backbone.device)
    flat = embedded.reshape(-1, width)
    flat = F.pad(flat, (0, 0, 0, len(batch.input_ids) - len(flat)))
    hidden = model.hidden(batch, flat.to(dtype))
    logits: Tensor = model.head(hidden).float()
    return logits.view(points, len(reading.example.select), -1)
