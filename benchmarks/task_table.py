"""Tables of measured tasks in ``RESULTS.md`` and ``docs/tasks.md``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from task_results import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

NO_RESULTS = "Not measured on real data yet."
PAGES = (
    Path(__file__).with_name("RESULTS.md"),
    Path(__file__).parents[1] / "docs" / "tasks.md",
)
_MARKS = re.compile(
    r"(?P<begin><!-- tasks: begin(?P<names>[^>]*)-->)\n.*?(?P<end><!-- tasks: end -->)", re.DOTALL
)
#: Shown metrics of each task; those that papers report first.
SHOWN: Mapping[str, tuple[str, ...]] = {
    "token-classification": ("entity_f1", "token_accuracy"),
    "relation-extraction": ("relation_f1", "accuracy"),
    "question-answering": ("f1", "exact_match"),
    "ranking": ("auc", "ndcg_at_10"),
    "dialogue": ("perplexity", "chrf"),
    "speech-recognition": ("wer", "cer"),
    "translation": ("bleu", "chrf", "perplexity"),
    "summarization": ("rouge1", "rouge2", "rouge_l", "perplexity"),
    "generative-question-answering": ("f1", "exact_match", "perplexity"),
}
CLASSIFICATION = ("accuracy", "macro_f1", "in_scope_accuracy", "out_of_scope_recall")
MULTI_LABEL = ("micro_f1", "macro_f1", "exact_match")
HEADER = (
    "| recipe | metric | frozen backbone | adapter | 95 % interval | full fine-tuning "
    "| trained | artifact | training |",
    "|---|---|---|---|---|---|---|---|---|",
)


def write_tables(pages: Sequence[Path] = PAGES) -> None:
    """Replace the tables between the marks of the pages."""
    results = read_all()
    for page in pages:
        text = page.read_text(encoding="utf-8")
        page.write_text(filled(text, results), encoding="utf-8")


def filled(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the text of a page with its tables replaced.

    Args:
        text: Page with ``<!-- tasks: begin NAME ... -->`` and ``<!-- tasks: end -->``; the table
            has the named recipes, or without names all recipes and the conditions of each.
        results: Stored parts of every recipe.
    """

    def table(marks: re.Match[str]) -> str:
        names = marks.group("names").split()
        chosen = {name: results[name] for name in names or results if name in results}
        if not chosen:
            return f"{marks.group('begin')}\n{NO_RESULTS}\n{marks.group('end')}"
        lines = render(chosen) if names else "\n".join([render(chosen), "", *_conditions(chosen)])
        return f"{marks.group('begin')}\n{lines}\n{marks.group('end')}"

    return _MARKS.sub(table, text)


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table of recipes."""
    lines = [line for name, document in results.items() for line in _lines(name, document)]
    return "\n".join([*HEADER, *lines])


def shown(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the shown metrics of a recipe."""
    if document["multi_label"]:
        return MULTI_LABEL
    return SHOWN.get(document["task"], CLASSIFICATION)


def value(part: Mapping[str, Any], metric: str) -> float | None:
    """Return a metric, preferably of the generated texts."""
    texts: Mapping[str, Any] = part.get("texts", {})
    found = texts.get("metrics", {}).get(metric, part.get("metrics", {}).get(metric))
    return None if found is None else float(found)


def interval(part: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """Return the interval of a metric, if it was computed."""
    texts: Mapping[str, Any] = part.get("texts", {})
    found = texts.get("intervals", {}).get(metric, part.get("intervals", {}).get(metric))
    return None if found is None else (float(found[0]), float(found[1]))


def _lines(name: str, document: Mapping[str, Any]) -> Iterator[str]:
    parts = document["parts"]
    adapter = parts.get("adapter", {})
    for place, metric in enumerate(shown(document)):
        if value(adapter, metric) is None:
            continue
        first = place == 0
        cells = (
            name.replace(".", ", ") if first else "",
            metric,
            _number(value(parts.get("base", {}), metric)),
            f"**{_number(value(adapter, metric))}**",
            _range(interval(adapter, metric)),
            _number(value(parts.get("full", {}), metric)),
            f"{adapter['trained_share']:.2%}".replace("%", " %") if first else "",
            f"{adapter['artifact_bytes'] / 1e6:.2f} MB" if first else "",
            _training(adapter) if first else "",
        )
        yield f"| {' | '.join(cells)} |"


def _training(part: Mapping[str, Any]) -> str:
    examples = f"{part['training_rows']:,} examples"
    if "seconds" not in part:
        return f"{examples}, {part['epochs']} epochs"
    minutes = max(1, round(part["seconds"] / 60))
    return f"{examples}, {part['steps']:,} steps, {minutes} min"


def _conditions(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, document in results.items():
        for part, found in document["parts"].items():
            kind = found.get("kind", part)
            examples = f"{found['validation_rows']:,} dev examples"
            if "texts" in found:
                examples += f", texts of the first {found['texts']['rows']}"
            rate = found.get("learning_rate")
            learning = f", learning rate {rate:g}" if rate else ""
            yield (
                f"- `{name}`, {kind}: {examples}{learning}; `{found['command']}`; "
                f"{found['machine']}; {found['date']}"
            )


def _number(found: float | None) -> str:
    if found is None:
        return ""
    return f"{found:.2f}" if abs(found) >= 10 else f"{found:.4f}"


def _range(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{_number(found[0])} … {_number(found[1])}"
