"""Make the rows of the recipe for many labels: ``python recipes/make_sgd.py FROM TO``.

FROM is a folder with conversations of the Schema-Guided Dialogue data (``train.jsonl.gz``,
``dev.jsonl``: intents, turns with role and text). What the user says becomes a text, and the
intents its labels. Conversations in ``dev.jsonl`` with an intent that no other file has are left
out, since nothing could learn it; how many is printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adapterhub.data.readers import read_examples
from adapterhub.data.dataset import FileSource


def main(source: Path, target: Path) -> None:
    """Write ``train.jsonl`` and ``dev.jsonl``."""
    target.mkdir(parents=True, exist_ok=True)
    learned = [_row(each) for each in _conversations(source / "train.jsonl.gz")]
    known = {intent for row in learned for intent in row["intents"]}
    held_out = [_row(each) for each in _conversations(source / "dev.jsonl")]
    kept = [row for row in held_out if known.issuperset(row["intents"])]
    _write(learned, target / "train.jsonl")
    _write(kept, target / "dev.jsonl")
    print(f"{len(learned)} rows to learn from, {len(kept)} to validate on")
    print(f"{len(held_out) - len(kept)} left out: they have intents that are not learned")


def _conversations(path: Path) -> tuple[dict, ...]:
    return read_examples(FileSource(str(path))).rows


def _row(conversation: dict) -> dict:
    said = (turn["text"] for turn in conversation["turns"] if turn["role"] == "user")
    # an intent can come twice in a conversation, by two services
    return {"text": " ".join(said), "intents": sorted(set(conversation["intents"]))}


def _write(rows: list[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
