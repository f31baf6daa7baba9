"""Storage of measured parts of recipes as JSON: one file per recipe, one object per part."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.training.recipe import Recipe

RESULTS = Path(__file__).with_name("results")


def save_part(path: Path, recipe: Recipe, part: str, found: Mapping[str, Any]) -> None:
    """Store a part next to those that were measured before."""
    document = read(path) if path.exists() else {"parts": {}}
    document |= {
        "recipe": recipe.name,
        "task": recipe.task.name,
        "multi_label": recipe.task.multi_label,
        "backbone": recipe.backbone.name,
        "quantization": recipe.backbone.quantization,
    }
    document["parts"][part] = dict(found)
    path.parent.mkdir(exist_ok=True)
    path.write_text(_text(document), encoding="utf-8")


def read(path: Path) -> dict[str, Any]:
    """Return the stored parts of a recipe."""
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def read_all(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return the stored parts of every recipe, by name."""
    found = {path.stem: read(path) for path in sorted(folder.glob("*.json"))}
    # the result of a GPU run is stored in the same folder
    return {name: document for name, document in found.items() if "parts" in document}


def machine() -> str:
    """Return a description of the machine and of the libraries that determine timings."""
    # tables and figures are written without torch
    import torch

    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*: (.*)", flags)
    kinds = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if name in flags]
    return (
        f"{os.cpu_count()} cores, {model.group(1) if model else platform.machine()} "
        f"({', '.join(kinds)}), {torch.get_num_threads()} thread(s), "
        f"torch {torch.__version__}, peft {version('peft')}"
    )


def today() -> str:
    """Return the date in UTC."""
    return datetime.now(UTC).date().isoformat()


def _text(document: Any) -> str:
    """Return JSON with each list of numbers on one line, so that diffs can be read."""
    text = json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found.group().split()), text) + "\n"
