"""Make the rows of the ranking recipe: ``python recipes/make_movielens.py FROM TO [USERS]``.

FROM is a folder with MovieLens ratings (``train.jsonl.gz``, ``dev.jsonl``: user_id, item_id,
rating, timestamp) and films (``items.jsonl``: item_id, title, genres). USERS is how many users are
scored: all of their ratings in ``dev.jsonl`` become rows, and none of others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adapterhub.data.ratings import Rating, history_pairs
from adapterhub.data.readers import read_examples
from adapterhub.data.dataset import FileSource

#: Ratings of 4 and 5 of 5 stars please.
LIKED = 4
#: Films of a history.
LENGTH = 8


def main(source: Path, target: Path, users: int | None = None) -> None:
    """Write ``train.jsonl`` and ``dev.jsonl``."""
    films = {row["item_id"]: _film(row) for row in _rows(source / "items.jsonl")}
    splits = {
        name: [_rating(row, films) for row in _rows(source / file)]
        for name, file in (("train", "train.jsonl.gz"), ("dev", "dev.jsonl"))
    }
    scored = set(sorted({rating.user for rating in splits["dev"]}, key=int)[:users])
    splits["dev"] = [rating for rating in splits["dev"] if rating.user in scored]
    target.mkdir(parents=True, exist_ok=True)
    for name, ratings in splits.items():
        with (target / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            for row in history_pairs(ratings, splits["train"], liked=LIKED, length=LENGTH):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(path: Path) -> tuple[dict, ...]:
    return read_examples(FileSource(str(path))).rows


def _film(row: dict) -> str:
    return f"{row['title']} [{', '.join(row['genres'])}]"


def _rating(row: dict, films: dict) -> Rating:
    return Rating(str(row["user_id"]), films[row["item_id"]], row["rating"], row["timestamp"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
