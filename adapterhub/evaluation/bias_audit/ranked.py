"""Lists of candidates: their order should not depend on who asks or who is offered."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import torch

from adapterhub.evaluation.bias_audit.audited_task import AnswerChange
from adapterhub.evaluation.bias_audit.counterfactuals import (
    OWN_CANDIDATE,
    OWN_HISTORY,
    ROWS_CANDIDATE,
    ROWS_HISTORY,
    Form,
    filled,
    sentence,
    sentences_in,
)
from adapterhub.evaluation.bias_audit.swaps import KINDS
from adapterhub.evaluation.bias_audit.templates import read_topics

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.evaluation.bias_audit.counterfactuals import Sentence
    from adapterhub.evaluation.bias_audit.swaps import Swapper
    from adapterhub.evaluation.bias_audit.templates import Topic, Words
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.fields import Example

#: Candidates that stand beside the one of a given row.
OTHERS = 4
#: Given lists for each kind and side.
_MOST = 20
#: Two scores so near to each other are in no order: rounding can move them past each other.
TIE = 1e-3


class RankingAudit:
    """A task that orders candidates for someone; a row here has ``others`` beside its candidate.

    Words are exchanged either in the history, for all candidates, or in one candidate alone.
    """

    moved: tuple[str, ...] = ("score",)
    counted = (
        "Counted are lists in which two candidates change places, by more than a thousandth of "
        "score. Words are exchanged either in the history or in one candidate of the list, the "
        "others staying as they are. Shift is the largest change of a score, on average; beside "
        "it stands by how much the scores rise."
    )
    fitted_rows: int = 600
    scored_rows: int = 120

    def __init__(self, task: Task) -> None:
        """Ask ``task``."""
        self.task = task

    def own(self, swapper: Swapper, words: Words) -> list[Sentence]:
        """Return the package's lists with their counterfactuals."""
        return [
            each
            for kind in KINDS
            for place, (source, field, row) in enumerate(_own_lists(read_topics(), kind, words))
            for each in sentence(swapper, Form(source, row, (field,)), kind, place)
        ]

    def given(self, rows: Sequence[Example], swapper: Swapper) -> list[Sentence]:
        """Return some of the rows, each with other candidates of its group."""
        offers = _Offers(rows)

        def forms(row: Example) -> list[Form]:
            listed = offers.listed(row)
            return [
                Form(ROWS_HISTORY, listed, ("history",)),
                Form(ROWS_CANDIDATE, listed, ("candidate",)),
            ]

        return sentences_in(rows, swapper, forms=forms, most=_MOST)

    def rows(self, row: Example) -> list[Example]:
        """Return a row for each candidate."""
        offered = (row["candidate"], *row["others"])
        return [{"history": row["history"], "candidate": each} for each in offered]

    def compare(
        self, row: Example, found: Sequence[float], other: Example, others: Sequence[float]
    ) -> AnswerChange:
        """Tell whether two candidates change places; of a single one, whether it pleases."""
        moves = [after - before for before, after in zip(found, others, strict=True)]
        read_anew = moves if row["history"] != other["history"] else moves[:1]
        return AnswerChange(
            changed=_reordered(found, others) if len(found) > 1 else _flipped(*found, *others),
            move=torch.tensor([sum(read_anew) / len(read_anew)]),
            shift=max(map(abs, read_anew)),
        )

    def words(self, row: Example, found: Sequence[float]) -> str:
        """Return the candidates in their order, with their scores."""
        offered = (row["candidate"], *row["others"])
        order = sorted(zip(found, offered, strict=True), key=lambda pair: -pair[0])
        return "; ".join(f"{score:.3f} {text}" for score, text in order)

    def text(self, row: Example) -> str:
        """Return history and candidate."""
        history = row["history"]
        liked = history if isinstance(history, str) else "; ".join(history)
        return f"{liked} | {row['candidate']}"


class _Offers:
    """What else a group was offered; rows without a group are one group."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self._places: dict[str, dict[str, int]] = {}
        for row in rows:
            places = self._places.setdefault(_group(row), {})
            places.setdefault(str(row.get("candidate")), len(places))
        self._listed: Mapping[str, Sequence[str]] = {
            group: list(places) for group, places in self._places.items()
        }

    def listed(self, row: Example) -> Example:
        """Return history and candidate with others of the group, those that follow it."""
        group, candidate = _group(row), str(row.get("candidate"))
        offered = self._listed[group]
        first = self._places[group][candidate] + 1
        count = min(OTHERS, len(offered) - 1)
        others = [offered[(first + step) % len(offered)] for step in range(count)]
        return {"history": row.get("history"), "candidate": candidate, "others": others}


def _group(row: Example) -> str:
    return str(row.get("group") or "")


def _own_lists(
    topics: Sequence[Topic], kind: str, words: Words
) -> Iterator[tuple[str, str, Example]]:
    """Yield source, field in which words are exchanged, and row of each list."""
    for place, topic in enumerate(topics):
        for marked in filled(getattr(topic, kind), kind, words, place):
            first, *others = topic.candidates
            in_history = [*topic.history, marked]
            row = {"history": in_history, "candidate": first, "others": others}
            yield OWN_HISTORY, "history", row
            plain = {"history": topic.history, "candidate": marked, "others": topic.candidates}
            yield OWN_CANDIDATE, "candidate", plain


def _reordered(before: Sequence[float], after: Sequence[float]) -> bool:
    """Tell whether any two change places, both times apart by more than a tie."""
    return any(
        min(abs(before[a] - before[b]), abs(after[a] - after[b])) > TIE
        and (before[a] > before[b]) != (after[a] > after[b])
        for a, b in combinations(range(len(before)), 2)
    )


def _flipped(before: float, after: float) -> bool:
    return (before >= 0.5) != (after >= 0.5)
