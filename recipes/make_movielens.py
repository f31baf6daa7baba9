"""Convert MovieLens to ranking examples: ``python recipes/make_movielens.py FROM TO [USERS]``.

FROM is a folder with MovieLens ratings (``train.jsonl.gz``, ``dev.jsonl``: user_id, item_id,
rating, timestamp) and films (``items.jsonl``: item_id, title, genres). USERS is the number of
users to evaluate: only their ratings in ``dev.jsonl`` become examples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterhub.data.dataset import FileSource
from adapterhub.data.readers import read_examples

#: Ratings of 4 and 5 of 5 stars are relevant.
LIKED = 4
#: Films in a history.
LENGTH = 8


@dataclass(frozen=True, slots=True)
class Rating:
    """A user's rating of an item, given as text; higher is better, and times have any scale."""

    user: str
    item: str
    value: float
    time: float


def main(source: Path, target: Path, users: int | None = None) -> None:
    """Write ``train.jsonl`` and ``dev.jsonl``."""
    films = {record["item_id"]: _film(record) for record in _read(source / "items.jsonl")}
    splits = {
        name: [_rating(record, films) for record in _read(source / file)]
        for name, file in (("train", "train.jsonl.gz"), ("dev", "dev.jsonl"))
    }
    scored = set(sorted({rating.user for rating in splits["dev"]}, key=int)[:users])
    splits["dev"] = [rating for rating in splits["dev"] if rating.user in scored]
    target.mkdir(parents=True, exist_ok=True)
    for name, ratings in splits.items():
        with (target / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            for example in history_pairs(ratings, splits["train"], liked=LIKED, length=LENGTH):
                stream.write(json.dumps(example, ensure_ascii=False) + "\n")


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


def _read(path: Path) -> tuple[dict, ...]:
    return read_examples(FileSource(str(path))).examples


def _film(record: dict) -> str:
    return f"{record['title']} [{', '.join(record['genres'])}]"


def _rating(record: dict, films: dict) -> Rating:
    film = films[record["item_id"]]
    return Rating(str(record["user_id"]), film, record["rating"], record["timestamp"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
