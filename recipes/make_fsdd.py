"""Leave a speaker of spoken digits out: ``python recipes/make_fsdd.py FROM TO SPEAKER``.

FROM is a folder with the Free Spoken Digit Dataset: ``train.jsonl`` and ``dev.jsonl`` with the
columns file and speaker, and zip files of the same names with the recordings. TO gets the other
speakers' training recordings as ``train``, and all recordings of SPEAKER as ``dev``.
"""

from __future__ import annotations

import json
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path


def main(source: Path, target: Path, speaker: str) -> None:
    """Write ``train`` and ``dev``, each as ``.jsonl`` and ``.zip``."""
    target.mkdir(parents=True, exist_ok=True)
    train, dev = _examples(source / "train.jsonl"), _examples(source / "dev.jsonl")
    others = [each for each in train if each["speaker"] != speaker]
    own = [each for each in (*train, *dev) if each["speaker"] == speaker]
    if not own:
        speakers = ", ".join(sorted({each["speaker"] for each in train}))
        raise SystemExit(f"there is no speaker {speaker!r}, there are {speakers}")
    with ExitStack() as opened:
        archives = [
            opened.enter_context(zipfile.ZipFile(source / f"{name}.zip"))
            for name in ("train", "dev")
        ]
        _write(others, archives, target / "train")
        _write(own, archives, target / "dev")
    print(f"{len(others)} training examples, {len(own)} validation examples of {speaker}")


def _examples(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write(examples: list[dict], archives: list[zipfile.ZipFile], target: Path) -> None:
    lines = "".join(json.dumps(each) + "\n" for each in examples)
    target.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    names = [(archive, set(archive.namelist())) for archive in archives]
    with zipfile.ZipFile(target.with_suffix(".zip"), "w") as written:
        for each in examples:
            archive = next(archive for archive, found in names if each["file"] in found)
            written.writestr(each["file"], archive.read(each["file"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
