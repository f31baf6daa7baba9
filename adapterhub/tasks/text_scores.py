"""Scores of generated texts by well-known libraries, with their signatures."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROUGE_TYPES = {"rouge1": "rouge1", "rouge2": "rouge2", "rougeL": "rouge_l"}


@dataclass(frozen=True, slots=True)
class TextScores:
    """Scores of texts, comparable only where the signatures of their computation are equal."""

    metrics: Mapping[str, float]
    signatures: Mapping[str, str] = field(default_factory=dict)


def translation_scores(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    """Return ``bleu`` and ``chrf`` of a corpus, both from 0 to 100, as sacrebleu computes them.

    Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores"; Popović 2015, "chrF".

    Raises:
        DataError: when there are no texts, or their number differs from the references'.
    """
    from sacrebleu.metrics import BLEU, CHRF

    _check(references, found)
    streams = _streams(references)
    metrics: dict[str, float] = {}
    signatures: dict[str, str] = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        metrics[name] = float(metric.corpus_score(list(found), streams).score)
        signatures[name] = str(metric.get_signature())
    return TextScores(metrics, signatures)


def chrf_scores(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    """Return ``chrf`` of a corpus alone; see ``translation_scores``."""
    scores = translation_scores(references, found)
    return TextScores({"chrf": scores.metrics["chrf"]}, {"chrf": scores.signatures["chrf"]})


def rouge_scores(references: Sequence[Sequence[str]], found: Sequence[str]) -> TextScores:
    """Return ``rouge1``, ``rouge2`` and ``rouge_l``: mean F1 over texts, from 0 to 1.

    Words are stemmed, and the best reference of a text counts, both as in rouge-score.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries".
    """
    from rouge_score.rouge_scorer import RougeScorer

    _check(references, found)
    scorer = RougeScorer(list(ROUGE_TYPES), use_stemmer=True)
    each = [scorer.score_multi(list(r), text) for r, text in zip(references, found, strict=True)]
    signature = f"rouge-score:{version('rouge-score')}|stemmer:yes|references:best|average:mean F1"
    return TextScores(
        {
            name: sum(s[kind].fmeasure for s in each) / len(each)
            for kind, name in ROUGE_TYPES.items()
        },
        dict.fromkeys(ROUGE_TYPES.values(), signature),
    )


def _check(references: Sequence[Sequence[str]], found: Sequence[str]) -> None:
    if not references or len(references) != len(found):
        raise DataError(f"{len(found)} texts can't be scored by {len(references)} references")


def _streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Return the first reference of every text, the second of every text, and so on."""
    most = max(len(each) for each in references)
    return [
        [each[index] if index < len(each) else None for each in references] for index in range(most)
    ]
