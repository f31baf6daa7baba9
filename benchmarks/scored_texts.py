"""Generated answers, scored as text, with how sure the scores are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.engine.session import Session
    from adapterhub.tasks.base import TextGeneration

#: Resamples of the rows; scores of texts take long.
RESAMPLES = 200
LEVEL = 0.95


def generated(
    session: Session,
    task: TextGeneration,
    rows: Sequence[Mapping[str, Any]],
    name: str | None,
    *,
    like: str | None = None,
) -> dict[str, Any]:
    """Answer rows, greedily, and score the texts.

    Args:
        session: with the adapter.
        task: of the adapter.
        rows: with their answers.
        name: of the adapter; ``None`` asks the bare backbone.
        like: adapter whose prompts the bare backbone is asked with.
    """
    asked = [
        task.question_and_reference(row, number)[0] for number, row in enumerate(rows, start=1)
    ]
    texts = session.generate(name, asked, like=like)
    scores = task.score_texts(rows, texts)
    return {
        "rows": len(rows),
        "metrics": {key: round(value, 4) for key, value in scores.metrics.items()},
        "intervals": _intervals(task, rows, texts),
        "signatures": dict(scores.signatures),
        "mean_words": round(sum(len(text.split()) for text in texts) / len(texts), 1),
    }


def _intervals(
    task: TextGeneration, rows: Sequence[Mapping[str, Any]], texts: Sequence[str]
) -> dict[str, list[float]]:
    """Return percentiles over rows drawn with replacement."""
    draw = np.random.default_rng(0)
    values: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        chosen = draw.integers(0, len(rows), len(rows))
        scores = task.score_texts([rows[i] for i in chosen], [texts[i] for i in chosen])
        for key, value in scores.metrics.items():
            values.setdefault(key, []).append(value)
    ends = [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0]
    return {
        key: [round(float(each), 4) for each in np.quantile(found, ends)]
        for key, found in values.items()
    }
