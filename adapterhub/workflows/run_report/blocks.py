"""Content of a report, independent of HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph.

    Args:
        text: Plain text.
        warning: Whether to highlight it.
    """

    kind: ClassVar[str] = "text"
    text: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section.

    Args:
        text: Plain text.
    """

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table with headings.

    Args:
        columns: Heading of each column; one that starts with ``>`` is aligned to the right.
        rows: Cells of each row, one for each column.
        caption: Text above the table.
    """

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
    """A figure.

    Args:
        svg: Content of the SVG file.
        caption: Caption, which is also the alternative text.
    """

    kind: ClassVar[str] = "figure"
    svg: bytes
    caption: str


@dataclass(frozen=True, slots=True)
class ShadedText:
    """A text whose words are shaded by a number.

    Args:
        name: Name of the text, or empty.
        spans: Consecutive spans of the text, each with its shade in [-1, 1] and its tooltip;
            the shade is ``None`` for spans without one.
    """

    kind: ClassVar[str] = "shaded"
    name: str
    spans: Sequence[tuple[str, float | None, str]]


Block: TypeAlias = Text | Heading | Table | Figure | ShadedText


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a report; one without blocks is left out.

    Args:
        title: Heading.
        blocks: Content in order.
    """

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
