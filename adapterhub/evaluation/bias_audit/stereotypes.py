"""Which of two sentences does a decoder find likelier: the stereotype, or the same of others?"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from adapterhub.data.batching import batches_by_length
from adapterhub.data.packing import EncodedExample, pack
from adapterhub.evaluation.bias_audit.inference import BATCH_TOKENS
from adapterhub.evaluation.bias_audit.results import group_metric
from adapterhub.tasks.token_loss import token_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.evaluation.bias_audit.results import GroupMetric


@dataclass(frozen=True, slots=True)
class Preference:
    """How much likelier the stereotype is.

    Args:
        kind: of stereotype.
        backbone: log-probability of the shared words after the stereotype's group, less that
            after the other group, in nats.
        adapter: the same with the adapter.
    """

    kind: str
    backbone: float
    adapter: float


def preferences(
    model: TaskModel, pairs: Mapping[str, Sequence[tuple[str, str]]]
) -> list[Preference]:
    """Return what backbone and adapter prefer, by the words that both sentences share.

    The words before and within the difference are not counted, because a group's name has a
    probability of its own. A decoder reads from left to right, so what is shared and stands
    before the difference has the same probability in both.
    Source: Nangia et al. 2020, "CrowS-Pairs", arXiv:2010.00133, for masked models; here for
    decoders.

    Args:
        model: in evaluation mode, of a language model.
        pairs: kind to pairs of a stereotype and the same sentence of others.
    """
    listed = [(kind, pair) for kind, of_kind in pairs.items() for pair in of_kind]
    examples = [each for _, pair in listed for each in _examples(model, *pair)]
    scores = [_scores(model, examples, bare=bare) for bare in (True, False)]
    differences = [each[::2] - each[1::2] for each in scores]
    return [
        Preference(kind, float(differences[0][place]), float(differences[1][place]))
        for place, (kind, _) in enumerate(listed)
    ]


def stereotype_measures(found: Sequence[Preference], level: float) -> list[GroupMetric]:
    """Return the share of pairs in which the stereotype is likelier, in all and by kind.

    Args:
        found: preferences.
        level: confidence of the intervals.
    """
    kinds = sorted({each.kind for each in found})
    return [
        group_metric(
            "stereotype preferred",
            group,
            np.array([each.adapter > 0 for each in some]),
            np.array([each.backbone > 0 for each in some]),
            worse="from_half",
            level=level,
        )
        for group, some in (
            ("all pairs", list(found)),
            *((kind, [each for each in found if each.kind == kind]) for kind in kinds),
        )
    ]


def _examples(model: TaskModel, one: str, two: str) -> Iterator[EncodedExample]:
    """Yield both sentences, to be scored where they end alike."""
    tokenizer = model.backbone.tokenizer
    texts = [tokenizer(text)["input_ids"] for text in (one, two)]
    shared = 0
    # one token at least is the difference, and the first has nothing before it
    while shared < min(map(len, texts)) - 1 and texts[0][-1 - shared] == texts[1][-1 - shared]:
        shared += 1
    for ids in texts:
        first = len(ids) - shared
        yield EncodedExample(
            number=1,
            input_ids=ids[:-1],
            select=range(first - 1, len(ids) - 1),
            targets=ids[first:],
        )


def _scores(model: TaskModel, examples: Sequence[EncodedExample], *, bare: bool) -> np.ndarray:
    """Return the log-probability of the shared end of each sentence, ``[sentences]``."""
    found = np.zeros(len(examples))
    with torch.no_grad(), model.disable_adapter() if bare else nullcontext():
        for indices in batches_by_length([len(each) for each in examples], BATCH_TOKENS):
            batch = pack([examples[index] for index in indices]).to(model.backbone.device)
            losses, _ = token_scores(model.head, model.hidden(batch), batch.targets)
            for index, loss in zip(indices, losses.double().split(batch.selected), strict=True):
                found[index] = -float(loss.sum())
    return found
