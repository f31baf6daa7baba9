"""Convert dialogues to multi-label examples: ``python recipes/make_sgd.py FROM TO``.

FROM is a folder with conversations of the Schema-Guided Dialogue data (``train.jsonl.gz``,
``dev.jsonl``: intents, turns with role and text). The user's turns become a text, and the
intents its labels. Conversations in ``dev.jsonl`` with an intent that is not in training are left
out; their number is printed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adapterhub.data.dataset import FileSource
from adapterhub.data.readers import read_examples


def main(source: Path, target: Path) -> None:
    """Write ``train.jsonl`` and ``dev.jsonl``."""
    target.mkdir(parents=True, exist_ok=True)
    train = [_example(each) for each in _conversations(source / "train.jsonl.gz")]
    known = {intent for example in train for intent in example["intents"]}
    dev = [_example(each) for each in _conversations(source / "dev.jsonl")]
    kept = [example for example in dev if known.issuperset(example["intents"])]
    _write(train, target / "train.jsonl")
    _write(kept, target / "dev.jsonl")
    print(f"{len(train)} training examples, {len(kept)} validation examples")
    print(f"{len(dev) - len(kept)} left out: they have intents that are not in training")


def _conversations(path: Path) -> tuple[dict, ...]:
    return read_examples(FileSource(str(path))).examples


def _example(conversation: dict) -> dict:
    texts = (turn["text"] for turn in conversation["turns"] if turn["role"] == "user")
    # an intent can occur twice in a conversation, for two services
    return {"text": " ".join(texts), "intents": sorted(set(conversation["intents"]))}


def _write(examples: list[dict], path: Path) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(each, ensure_ascii=False) + "\n" for each in examples)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
