"""What a refresh found, told as plain JSON and read back."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from adapterhub.adapters import strict_json as strict
from adapterhub.evaluation.bootstrap import Interval
from adapterhub.evaluation.drift import Drift, DriftTest
from adapterhub.evaluation.paired_tests import Difference
from adapterhub.workflows.refresh.document import REFRESH_NAME
from adapterhub.workflows.refresh.findings import Loss, RefreshOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping


def tell(drift: Drift, loss: Loss) -> dict[str, Any]:
    """Return what was found before training as plain JSON."""
    found = {each.what for each in drift.found}
    tests = [{**asdict(test), "drift": test.what in found} for test in drift.tests]
    return {
        "drift": {"level": drift.level, "tests": tests, "found": bool(found)},
        "present": {**asdict(loss), "worse": loss.shown},
    }


def read_findings(findings: Mapping[str, Any]) -> tuple[Drift, Loss, RefreshOutcome]:
    """Return what the findings of a ``refresh.json`` tell.

    Raises:
        ArtifactError: when they are malformed.
    """
    place = f"{REFRESH_NAME}: findings"
    drift, loss, outcome = _FINDINGS(dict(findings), place)
    return drift, loss, outcome


def _number(value: Any, place: str) -> float:
    # null is a number that JSON can't hold
    return math.nan if value is None else strict.number(value, place)


def _without(key: str, reader: strict.Reader) -> strict.Reader:
    """Return a reader that leaves out what follows from the rest."""

    def read(value: Any, place: str) -> Any:
        kept = {name: each for name, each in strict.mapping(value, place).items() if name != key}
        return reader(kept, place)

    return read


def _tests(value: Any, place: str) -> tuple[DriftTest, ...]:
    if not isinstance(value, list):
        raise strict.must("a list", value, place)
    return tuple(_TEST(each, f"{place}[{index}]") for index, each in enumerate(value))


def _differences(value: Any, place: str) -> tuple[Difference, ...]:
    return tuple(strict.map_of(_DIFFERENCE)(value, place).values())


def _together(
    drift: Drift,
    present: Loss,
    split: str,
    forgetting: tuple[Difference, ...],
    gain: tuple[Difference, ...],
) -> tuple[Drift, Loss, RefreshOutcome]:
    return drift, present, RefreshOutcome(split, forgetting, gain)


_INTERVAL = strict.record(Interval, dict.fromkeys(("low", "high", "level"), _number))
_TEST = _without(
    "drift",
    strict.record(
        DriftTest,
        {
            **dict.fromkeys(("what", "test"), strict.text),
            **dict.fromkeys(("effect", "p_value"), _number),
            **dict.fromkeys(("old", "new"), strict.count),
        },
    ),
)
_DIFFERENCE = _without(
    "difference",
    strict.record(
        Difference,
        {
            **dict.fromkeys(("metric", "test"), strict.text),
            **dict.fromkeys(("first", "second", "p_value"), _number),
            "interval": _INTERVAL,
        },
    ),
)
_LOSS = _without(
    "worse",
    strict.record(
        Loss,
        {
            **dict.fromkeys(("metric", "split"), strict.text),
            "greater_is_better": strict.flag,
            "recorded": strict.optional(strict.number),
            **dict.fromkeys(("old", "new"), _number),
            **dict.fromkeys(("old_interval", "new_interval", "change"), _INTERVAL),
        },
    ),
)
_FINDINGS = strict.record(
    _together,
    {
        "drift": _without("found", strict.record(Drift, {"level": _number, "tests": _tests})),
        "present": _LOSS,
        "split": strict.text,
        "forgetting": _differences,
        "gain": _differences,
    },
)
