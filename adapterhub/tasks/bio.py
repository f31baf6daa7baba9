"""BIO tags: repair and spans.

A tag is ``O``, ``B-TYPE`` for the first word of a span, or ``I-TYPE`` for a later one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OUTSIDE = "O"


def check_tags(tags: Iterable[str]) -> None:
    """Require BIO tags."""
    for tag in tags:
        if tag != OUTSIDE and not (tag[:2] in ("B-", "I-") and tag[2:]):
            raise RecipeError(
                f"{tag!r} is not a BIO tag",
                place="data.fields.tags",
                hint="Tags are O, B-TYPE or I-TYPE",
            )


def repair(tags: Sequence[str]) -> list[str]:
    """Return tags in which every span starts with ``B``.

    An ``I-TYPE`` that does not follow ``B-TYPE`` or ``I-TYPE`` becomes ``B-TYPE``. conlleval
    reads such tags in the same way, so no span score changes, and it turns the older IOB1
    scheme into BIO.
    """
    repaired: list[str] = []
    for tag in tags:
        previous = repaired[-1] if repaired else OUTSIDE
        starts = tag.startswith("I-") and previous[2:] != tag[2:]
        repaired.append(f"B-{tag[2:]}" if starts else tag)
    return repaired


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return ``(type, first word, one past the last word)`` for each span of repaired tags."""
    found: list[tuple[str, int, int]] = []
    for index, tag in enumerate(tags):
        if tag.startswith("B-"):
            found.append((tag[2:], index, index + 1))
        elif tag.startswith("I-"):
            kind, start, _ = found[-1]
            found[-1] = (kind, start, index + 1)
    return found
