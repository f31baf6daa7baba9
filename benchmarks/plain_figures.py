"""Figures as they are kept: rounded, and no more points than a picture needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Points of a curve.
MOST_POINTS = 60


def thinned(curves: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a run's curves with fewer points; the last one of each is kept."""
    found = []
    for curve in curves:
        points = curve["points"]
        every = -(-len(points) // MOST_POINTS) or 1
        kept = points[::-1][::every][::-1]
        found.append({"name": curve["name"], "points": [[s, round(v, 4)] for s, v in kept]})
    return found


def rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers with four digits behind the point."""
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
