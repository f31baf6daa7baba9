"""Render sections as one self-contained HTML page; all content is escaped."""

from __future__ import annotations

from base64 import b64encode
from importlib.resources import files
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.workflows.run_report.blocks import Section

_TEMPLATE = "page.html"
#: Characters above which a word may be broken, so that a URL does not widen its column.
_LONGEST_WORD = 24


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Return the page; it has no links to elsewhere, no script and no external assets."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("adapterhub.workflows.run_report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=[section for section in sections if section.blocks],
        encoded=lambda content: b64encode(content).decode("ascii"),
        is_long=_is_long,
    )


def _is_long(cell: str) -> bool:
    return any(len(word) > _LONGEST_WORD for word in cell.split())
