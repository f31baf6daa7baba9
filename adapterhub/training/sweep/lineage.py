"""The best trial's artifact with its study in it, so that the lineage travels along."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import write_annotated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STUDY_NAME = "study.json"


def write_with_study(
    source: Path, target: Path, study: Mapping[str, Any], pictures: Mapping[str, bytes]
) -> str:
    """Write a copy of an artifact that holds its study, and return the copy's digest.

    Equal arguments give equal bytes.

    Args:
        source: artifact of the best trial.
        target: of the copy; what is there is replaced.
        study: as ``lineage_document`` gives it.
        pictures: file name to content.

    Raises:
        ArtifactError: when ``source`` is damaged.
    """
    text = json.dumps(study, indent=2, sort_keys=True, ensure_ascii=False)
    return write_annotated(
        source,
        target,
        files={**pictures, STUDY_NAME: f"{text}\n".encode()},
        section=_section(study, pictures),
    )


def _section(study: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    trials = study["trials"]
    best = next(each for each in trials if each["number"] == study["best"])
    pruned = sum(each["state"] == "pruned" for each in trials)
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in sorted(best["params"].items()))
    shown = "".join(f"\n\n![{name.partition('.')[0]} of the search]({name})" for name in pictures)
    return (
        f"## Search\n\nThe best of {len(trials)} trials of the study `{study['study']}` "
        f"({pruned} stopped early) by {study['goal']['metric']} on the validation split, which "
        f"makes the figure above a little too good. All trials are in `{STUDY_NAME}`.\n\n"
        f"| key | value found |\n|---|---|\n{rows}{shown}\n"
    )
