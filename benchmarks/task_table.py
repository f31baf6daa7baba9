"""The table of tasks in ``RESULTS.md``, written from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from task_results import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAGE = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- tasks: begin -->", "<!-- tasks: end -->"
#: What is shown of each task, what its literature reports first.
SHOWN: Mapping[str, tuple[str, ...]] = {
    "text-classification": ("accuracy", "macro_f1"),
    "token-classification": ("entity_f1", "token_accuracy"),
    "relation-extraction": ("relation_f1", "accuracy"),
    "question-answering": ("f1", "exact_match"),
    "ranking": ("auc", "ndcg_at_10"),
    "dialogue": ("perplexity", "chrf"),
    "translation": ("bleu", "chrf", "perplexity"),
    "summarization": ("rouge1", "rouge2", "rouge_l", "perplexity"),
    "generative-question-answering": ("f1", "exact_match", "perplexity"),
}
MULTI_LABEL = ("micro_f1", "macro_f1", "exact_match")
HEADER = (
    "| recipe | metric | frozen backbone | adapter | 95 % interval | full fine-tuning "
    "| trained | artifact | learned from |",
    "|---|---|---|---|---|---|---|---|---|",
)


def write_table(page: Path = PAGE) -> None:
    """Put the table between its two marks; what stands around them stays."""
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise ValueError(f"{page.name} must have the lines {BEGIN} and {END}")
    written = f"{before}{BEGIN}\n{render(read_all())}\n{END}{after}"
    page.write_text(written, encoding="utf-8")


def render(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the table and the list of how each row was measured."""
    lines = [*HEADER]
    for name, document in results.items():
        lines += _rows(name, document)
    lines += ["", *_conditions(results)]
    return "\n".join(lines)


def shown(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the metrics that are shown of a recipe."""
    if document["multi_label"]:
        return MULTI_LABEL
    return SHOWN.get(document["task"], ("accuracy", "macro_f1"))


def value(part: Mapping[str, Any], metric: str) -> float | None:
    """Return a metric; that of generated texts where it is one of those."""
    texts: Mapping[str, Any] = part.get("texts", {})
    found = texts.get("metrics", {}).get(metric, part.get("metrics", {}).get(metric))
    return None if found is None else float(found)


def interval(part: Mapping[str, Any], metric: str) -> tuple[float, float] | None:
    """Return a metric's interval, where it was resampled."""
    texts: Mapping[str, Any] = part.get("texts", {})
    found = texts.get("intervals", {}).get(metric, part.get("intervals", {}).get(metric))
    return None if found is None else (float(found[0]), float(found[1]))


def _rows(name: str, document: Mapping[str, Any]) -> Iterator[str]:
    parts = document["parts"]
    adapter = parts.get("adapter", {})
    for place, metric in enumerate(shown(document)):
        if value(adapter, metric) is None:
            continue
        first = place == 0
        cells = (
            name if first else "",
            metric,
            _number(value(parts.get("base", {}), metric)),
            f"**{_number(value(adapter, metric))}**",
            _range(interval(adapter, metric)),
            _number(value(parts.get("full", {}), metric)),
            f"{adapter['trained_share']:.2%}".replace("%", " %") if first else "",
            f"{adapter['artifact_bytes'] / 1e6:.2f} MB" if first else "",
            _learned(adapter) if first else "",
        )
        yield f"| {' | '.join(cells)} |"


def _learned(part: Mapping[str, Any]) -> str:
    rows = f"{part['training_rows']:,} rows"
    if "seconds" not in part:
        return f"{rows}, {part['epochs']} epochs"
    minutes = max(1, round(part["seconds"] / 60))
    return f"{rows}, {part['steps']:,} steps, {minutes} min"


def _conditions(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, document in results.items():
        for part, found in document["parts"].items():
            kind = found.get("kind", part)
            rows = f"{found['validation_rows']:,} dev rows"
            if "texts" in found:
                rows += f", texts of the first {found['texts']['rows']}"
            rate = found.get("learning_rate")
            steps = f", learning rate {rate:g}" if rate else ""
            yield (
                f"- `{name}`, {kind}: {rows}{steps}; `{found['command']}`; "
                f"{found['machine']}; {found['date']}"
            )


def _number(found: float | None) -> str:
    if found is None:
        return ""
    return f"{found:.2f}" if abs(found) >= 10 else f"{found:.4f}"


def _range(found: tuple[float, float] | None) -> str:
    return "" if found is None else f"{_number(found[0])} … {_number(found[1])}"
