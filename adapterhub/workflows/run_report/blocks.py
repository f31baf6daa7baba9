"""What a report is made of, without a word of HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph.

    Args:
        text: plain.
        warning: whether it should be seen first.
    """

    text: str
    warning: bool = False

    @property
    def kind(self) -> str:
        """Which form the page gives it."""
        return "text"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings.

    Args:
        columns: headings; those that start with ``>`` are aligned to the right.
        rows: a cell for each column.
        caption: above it.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""

    @property
    def kind(self) -> str:
        """Which form the page gives it."""
        return "table"

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Heading of each column, and whether it is aligned to the right."""
        return [(each.removeprefix(">"), each.startswith(">")) for each in self.columns]


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing.

    Args:
        svg: its bytes.
        caption: what it shows, also for those who can't see it.
    """

    svg: bytes
    caption: str

    @property
    def kind(self) -> str:
        """Which form the page gives it."""
        return "picture"


@dataclass(frozen=True, slots=True)
class Heading:
    """What begins a part of a section.

    Args:
        text: plain.
    """

    text: str

    @property
    def kind(self) -> str:
        """Which form the page gives it."""
        return "heading"


@dataclass(frozen=True, slots=True)
class Words:
    """A text whose words are shaded.

    Args:
        name: of the text, or empty.
        pieces: of the text in order: each with a share from -1 to 1 and what it stands for, or
            without where it is not shaded.
    """

    name: str
    pieces: Sequence[tuple[str, float | None, str]]

    @property
    def kind(self) -> str:
        """Which form the page gives it."""
        return "words"


Block: TypeAlias = Text | Table | Picture | Heading | Words


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Args:
        title: its heading.
        blocks: in their order.
    """

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    @property
    def anchor(self) -> str:
        """By which the table of contents finds it."""
        return "-".join(self.title.casefold().split())
