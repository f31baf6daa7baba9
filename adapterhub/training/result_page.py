"""HTML of a run for notebooks: metrics, curves and the report, without scripts or other files."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

#: Size of a curve, and of the margin around it, in pixels.
_WIDTH, _HEIGHT, _MARGIN = 320, 150, 30


def result_html(
    title: str,
    summary: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    curves: Sequence[Mapping[str, Any]],
    report: Path | None,
) -> str:
    """Return the metrics before and after, the curves, and the report in a frame.

    Args:
        title: Name of the run.
        summary: Line below it.
        before: Validation metrics of the untrained adapter.
        after: Validation metrics of the stored adapter.
        curves: As ``curve_points`` returns them.
        report: Page of the run report, if there is one.
    """
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{_number(before.get(name))}</td>"
        f"<td>{_number(value)}</td></tr>"
        for name, value in after.items()
    )
    return (
        f"<div><b>{escape(title)}</b><br>{escape(summary)}"
        f"<table><tr><th>validation</th><th>before</th><th>after</th></tr>{rows}</table>"
        f"{curves_html(curves)}{_report(report)}</div>"
    )


def curves_html(curves: Sequence[Mapping[str, Any]]) -> str:
    """Return curves beside each other, each with its name and its smallest and largest value.

    Args:
        curves: As ``curve_points`` returns them.
    """
    return "".join(_curve(str(each["name"]), each["points"]) for each in curves)


def _curve(name: str, points: Sequence[Sequence[float]]) -> str:
    steps, values = [point[0] for point in points], [point[1] for point in points]
    width = (max(steps) - min(steps)) or 1
    height = (max(values) - min(values)) or 1
    inner = (_WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN)
    placed = " ".join(
        f"{_MARGIN + inner[0] * (step - min(steps)) / width:.1f},"
        f"{_HEIGHT - _MARGIN - inner[1] * (value - min(values)) / height:.1f}"
        for step, value in zip(steps, values, strict=True)
    )
    label = f'<text x="{_MARGIN}" y="16" font-size="12" fill="currentColor">{escape(name)} '
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{escape(name)}">'
        f"{label}({min(values):.4g} to {max(values):.4g})</text>"
        f'<text x="{_MARGIN}" y="{_HEIGHT - 8}" font-size="11" fill="currentColor">'
        f"step {min(steps)} to {max(steps)}</text>"
        f'<polyline points="{placed}" fill="none" stroke="#2684ff" stroke-width="1.5"/></svg>'
    )


def _report(page: Path | None) -> str:
    """Return the report in a frame that runs no scripts, folded."""
    if page is None or not page.is_file():
        return ""
    content = escape(page.read_text(encoding="utf-8"), quote=True)
    return (
        "<details><summary>run report</summary>"
        f'<iframe sandbox srcdoc="{content}" width="100%" height="600"></iframe></details>'
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
