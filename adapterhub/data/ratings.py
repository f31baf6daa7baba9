"""Conversion of ratings to examples of the ranking task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Rating:
    """A user's rating of an item, given as text; higher is better, and times have any scale."""

    user: str
    item: str
    value: float
    time: float


def history_pairs(
    ratings: Sequence[Rating], known: Sequence[Rating], *, liked: float, length: int
) -> Iterator[dict[str, Any]]:
    """Yield an example of the ranking task for each rating.

    The history of an example holds the items that its user liked before the rating, among the
    ``known`` ratings, the newest last. It holds neither the rating itself nor anything later,
    which would leak the answer.

    Args:
        ratings: Ratings to convert, in order.
        known: Ratings of the histories: those of the training split, for all splits.
        liked: Least rating of a relevant item.
        length: Most items of a history.
    """
    by_user = _by_user(rating for rating in known if rating.value >= liked)
    for rating in ratings:
        earlier = [
            other.item
            for other in by_user.get(rating.user, [])
            if other.time < rating.time and other.item != rating.item
        ]
        yield {
            "history": earlier[-length:],
            "candidate": rating.item,
            "label": int(rating.value >= liked),
            "group": rating.user,
            "gain": rating.value,
        }


def _by_user(ratings: Iterable[Rating]) -> dict[str, list[Rating]]:
    users: dict[str, list[Rating]] = {}
    for rating in sorted(ratings, key=lambda rating: rating.time):
        users.setdefault(rating.user, []).append(rating)
    return users
