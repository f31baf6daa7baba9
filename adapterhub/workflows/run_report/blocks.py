"""Content of a report, independent of HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence


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
