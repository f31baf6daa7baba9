"""How does the registry's index answer as it grows from 1,000 to 100,000 versions?

Physics: every look-up walks a B-tree, so time grows with the logarithm of the number of
versions; a page of a filtered list either looks up what a rare filter gives or walks versions
in order until the page is full. Each operation opens a connection of its own, as a command
does. Rows of the index are written without blobs, which no look-up reads.

    python benchmarks/registry_scale.py [--sizes 1000 10000 100000]

The last line of output is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.adapters.manifest import BackboneRef, FileEntry, Manifest, Metrics
from adapterhub.registry import Registry, aliases, index
from adapterhub.registry.staging import StagedArtifact
from adapterhub.registry.query import Query
from adapterhub.specs import LoraSpec, QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = ("text-classification", "token-classification", "dialogue")
VERSIONS_A_NAME = 5
PAGE = 50
REPEATS = 100
BASE = Manifest(
    task=TASKS[0],
    labels=("refund", "delivery", "account"),
    backbone=BackboneRef(name="minilm-l6", fingerprint="sha256:0"),
    quantization=QuantizationSpec("nf4", "bfloat16"),
    adapter=LoraSpec(rank=16, alpha=32.0, target_modules=("query",)),
    trained_parameters=1,
    backbone_parameters=1,
    recipe={"description": "Tells what a customer wants"},
    data={},
    metrics=Metrics(),
    seed=7,
    libraries={},
)


def grow(registry: Registry, first: int, last: int) -> None:
    """Add versions number ``first`` to ``last`` to the index."""
    draw = random.Random(first)
    with registry._database.writing() as db:
        for number in range(first, last):
            staged = _staged(draw, number)
            name = f"team{number % 40}/task{number // VERSIONS_A_NAME}"
            version = index.add(db, name, staged, "{}")
            if number % VERSIONS_A_NAME == 0:
                aliases.set_alias(db, version, "prod", why="first")
            if number % 997 == 0:
                index.change_tags(db, version, add=["rare"], remove=())


def _staged(draw: random.Random, number: int) -> StagedArtifact:
    manifest = replace(
        BASE,
        task=TASKS[number % 3],
        metrics=Metrics(after={"accuracy": draw.random(), "loss": draw.random()}),
    )
    digest = f"{draw.getrandbits(256):064x}"
    files = {
        name: FileEntry(sha256=f"{draw.getrandbits(256):064x}", size=2_000_000)
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")
    }
    return StagedArtifact(Path(), manifest, f"sha256:{digest}", files)


def milliseconds(action: Callable[[], object]) -> dict[str, float]:
    """Return the median and the 99th percentile of many calls."""
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    return {
        "median_ms": round(statistics.median(times), 2),
        "p99_ms": round(times[int(0.99 * len(times))], 2),
    }


def measure(registry: Registry, size: int) -> dict[str, dict[str, float]]:
    draw = random.Random(1)

    def name() -> str:
        number = draw.randrange(size)
        return f"team{number % 40}/task{number // VERSIONS_A_NAME}"

    def listed(**filters: object) -> Callable[[], object]:
        query = Query(limit=PAGE, **filters)  # type: ignore[arg-type]
        return lambda: registry.list(query)

    middle = (f"team20/task{size // VERSIONS_A_NAME // 2}", 1)
    return {
        "resolve name": milliseconds(lambda: registry.resolve(name())),
        "resolve name@prod, not there": milliseconds(lambda: _absent(registry, name())),
        "list, first page": milliseconds(listed()),
        "list, page in the middle": milliseconds(listed(after=middle)),
        "list task": milliseconds(listed(task="dialogue")),
        "list accuracy >= 0.5": milliseconds(listed(metric_at_least={"accuracy": 0.5})),
        "list accuracy >= 0.999": milliseconds(listed(metric_at_least={"accuracy": 0.999})),
        "list rare tag": milliseconds(listed(tag="rare")),
        "list alias": milliseconds(listed(alias="prod")),
        "list text, all": milliseconds(listed(text="customer refund")),
        "list text, one name": milliseconds(listed(text="task7")),
        "list task and accuracy": milliseconds(
            listed(task="dialogue", metric_at_least={"accuracy": 0.9})
        ),
        "list what nothing passes": milliseconds(
            listed(task="dialogue", metric_at_least={"accuracy": 2.0})
        ),
        "list name prefix": milliseconds(listed(prefix="team7/task1")),
    }


def _absent(registry: Registry, name: str) -> None:
    from adapterhub.errors import NotFoundError

    try:
        registry.resolve(f"{name}@staging")
    except NotFoundError:
        return
    raise SystemExit("found what is not there")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        size = 0
        for wanted in arguments.sizes:
            grow(registry, size, wanted)
            size = wanted
            results[str(size)] = measure(registry, size)
            megabytes = (registry.folder / "index.sqlite3").stat().st_size / 1e6
            print(f"{size} versions, index {megabytes:.1f} MB")
            for what, times in results[str(size)].items():
                print(f"   {what:32} {times['median_ms']:8.2f} ms   p99 {times['p99_ms']:8.2f} ms")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
