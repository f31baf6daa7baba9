"""How fast are lookups in the registry's index as it grows from 1,000 to 100,000 versions?

Physics: every lookup walks a B-tree, so time grows with the logarithm of the number of versions; a
page of a filtered list either looks up the matches of a rare filter or walks versions in order
until the page is full. Each operation opens a connection of its own, as a command does. Rows of
the index are written without blobs, which no lookup reads.

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

from bench_common import percentile_99

from adapterhub.adapters.manifest import BackboneRef, FileEntry, Manifest, Metrics
from adapterhub.errors import NotFoundError
from adapterhub.registry import Registry, aliases, index
from adapterhub.registry.query import Query
from adapterhub.registry.staging import StagedArtifact
from adapterhub.specs import LoraSpec, QuantizationSpec

if TYPE_CHECKING:
    from collections.abc import Callable

TASKS = ("text-classification", "token-classification", "dialogue")
VERSIONS_PER_NAME = 5
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
    recipe={"description": "Classifies requests of customers"},
    data={},
    metrics=Metrics(),
    seed=7,
    libraries={},
)


def grow(registry: Registry, first: int, last: int) -> None:
    """Add the versions from number ``first`` up to ``last`` to the index."""
    generator = random.Random(first)
    with registry._database.writing() as db:
        for number in range(first, last):
            staged = _staged(generator, number)
            name = f"team{number % 40}/task{number // VERSIONS_PER_NAME}"
            version = index.add(db, name, staged, "{}")
            if number % VERSIONS_PER_NAME == 0:
                aliases.set_alias(db, version, "prod", why="first")
            if number % 997 == 0:
                index.change_tags(db, version, add=["rare"], remove=())


def _staged(generator: random.Random, number: int) -> StagedArtifact:
    manifest = replace(
        BASE,
        task=TASKS[number % 3],
        metrics=Metrics(after={"accuracy": generator.random(), "loss": generator.random()}),
    )
    digest = f"{generator.getrandbits(256):064x}"
    files = {
        name: FileEntry(sha256=f"{generator.getrandbits(256):064x}", size=2_000_000)
        for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")
    }
    return StagedArtifact(Path(), manifest, f"sha256:{digest}", files)


def milliseconds(action: Callable[[], object]) -> dict[str, float]:
    """Return the median and the 99th percentile of many calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        action()
        times.append((time.perf_counter() - started) * 1e3)
    return {
        "median_ms": round(statistics.median(times), 2),
        "p99_ms": round(percentile_99(times), 2),
    }


def measure(registry: Registry, size: int) -> dict[str, dict[str, float]]:
    """Return the times of every operation on an index of ``size`` versions."""
    generator = random.Random(1)

    def name() -> str:
        number = generator.randrange(size)
        return f"team{number % 40}/task{number // VERSIONS_PER_NAME}"

    def listed(**filters: object) -> Callable[[], object]:
        query = Query(limit=PAGE, **filters)  # type: ignore[arg-type]
        return lambda: registry.list(query)

    middle = (f"team20/task{size // VERSIONS_PER_NAME // 2}", 1)
    return {
        "resolve name": milliseconds(lambda: registry.resolve(name())),
        "resolve missing alias": milliseconds(lambda: _absent(registry, name())),
        "list, first page": milliseconds(listed()),
        "list, middle page": milliseconds(listed(after=middle)),
        "list task": milliseconds(listed(task="dialogue")),
        "list accuracy >= 0.5": milliseconds(listed(metric_at_least={"accuracy": 0.5})),
        "list accuracy >= 0.999": milliseconds(listed(metric_at_least={"accuracy": 0.999})),
        "list rare tag": milliseconds(listed(tag="rare")),
        "list alias": milliseconds(listed(alias="prod")),
        "list text in all": milliseconds(listed(text="customer refund")),
        "list text in one name": milliseconds(listed(text="task7")),
        "list task and accuracy": milliseconds(
            listed(task="dialogue", metric_at_least={"accuracy": 0.9})
        ),
        "list without matches": milliseconds(
            listed(task="dialogue", metric_at_least={"accuracy": 2.0})
        ),
        "list name prefix": milliseconds(listed(prefix="team7/task1")),
    }


def _absent(registry: Registry, name: str) -> None:
    try:
        registry.resolve(f"{name}@staging")
    except NotFoundError:
        return
    raise SystemExit(f"{name}@staging was resolved, but has not been set")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder))
        size = 0
        for target in options.sizes:
            grow(registry, size, target)
            size = target
            results[str(size)] = measure(registry, size)
            megabytes = (registry.folder / "index.sqlite3").stat().st_size / 1e6
            print(f"{size} versions, index {megabytes:.1f} MB")
            for operation, times in results[str(size)].items():
                median, p99 = times["median_ms"], times["p99_ms"]
                print(f"   {operation:26} {median:8.2f} ms   p99 {p99:8.2f} ms")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
