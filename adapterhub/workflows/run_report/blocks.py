"""Content of a report, and its rendering as one self-contained HTML page."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from jinja2 import Environment, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Sequence

_TEMPLATE = "page.html"
#: Characters above which a word may be broken, so that a URL does not widen its column.
_LONGEST_WORD = 24


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph of plain text."""

    kind: ClassVar[str] = "text"
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table; a column whose heading starts with ``>`` is aligned to the right."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Heading of each column, and whether it is aligned to the right."""
        return [(each.removeprefix(">"), each.startswith(">")) for each in self.columns]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure; the caption is also its alternative text."""

    kind: ClassVar[str] = "figure"
    svg: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class ShadedText:
    """Consecutive spans of a text, each with a shade in [-1, 1] or ``None``, and a tooltip."""

    kind: ClassVar[str] = "shaded"
    name: str
    spans: Sequence[tuple[str, float | None, str]]


Block: TypeAlias = Text | Heading | Table | Figure | ShadedText


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a report; one without blocks is left out."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    @property
    def anchor(self) -> str:
        """HTML id that the table of contents links to."""
        return "-".join(self.title.casefold().split())


def shorten(text: str, limit: int) -> str:
    """Return a text on one line, cut to ``limit`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= limit else f"{flat[: limit - 1]}…"


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
