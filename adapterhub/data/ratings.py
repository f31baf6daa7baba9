"""From a table of ratings to pairs of a history and a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class Rating:
    """What a user thought of an item.

    Args:
        user: who.
        item: text that stands for the item.
        value: the higher the better.
        time: when, on any scale.
    """

    user: str
    item: str
    value: float
    time: float


def history_pairs(
    ratings: Sequence[Rating], known: Sequence[Rating], *, liked: float, length: int
) -> Iterator[dict[str, Any]]:
    """Yield an example of the ranking task for each rating.

    The history of an example holds what its user liked earlier than the rating among the ``known``
    ratings, the newest last. It never holds the rating itself, nor anything later: a model
    must not read from the future what it is to foretell.

    Args:
        ratings: become examples, in their order.
        known: make up histories; the training ratings, also for examples of other splits.
        liked: ratings of so much and more please.
        length: items of a history at most.
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
