"""Findings of a refresh as plain JSON, written and read back."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import ConfigDict

from adapterhub.adapters.strict_json import FOREIGN, Schema
from adapterhub.evaluation.drift import Drift
from adapterhub.evaluation.paired_tests import Difference
from adapterhub.workflows.refresh.document import REFRESH_NAME
from adapterhub.workflows.refresh.findings import MetricChange, RefreshOutcome

_CONFIG: ConfigDict = {**FOREIGN, "allow_inf_nan": True}


@dataclass(frozen=True, slots=True)
class _Findings:
    """The stored findings; derived values are not read."""

    drift: Drift
    present: MetricChange
    split: str
    forgetting: Mapping[str, Difference]
    gain: Mapping[str, Difference]

    __pydantic_config__ = _CONFIG


_SCHEMA = Schema(_Findings)


def findings_document(drift: Drift, change: MetricChange) -> dict[str, Any]:
    """Return the findings before training as plain JSON."""
    found = {each.what for each in drift.found}
    tests = [{**asdict(test), "drift": test.what in found} for test in drift.tests]
    return {
        "drift": {"level": drift.level, "tests": tests, "found": bool(found)},
        "present": {**asdict(change), "worse": change.is_worse},
    }


def read_findings(findings: Mapping[str, Any]) -> tuple[Drift, MetricChange, RefreshOutcome]:
    """Return the findings stored in a ``refresh.json``.

    Raises:
        ArtifactError: when they are malformed.
    """
    place = f"{REFRESH_NAME}: findings"
    read = _SCHEMA.read(_nan_for_null(findings), place)
    outcome = RefreshOutcome(read.split, tuple(read.forgetting.values()), tuple(read.gain.values()))
    return read.drift, read.present, outcome


def _nan_for_null(value: Any, key: str = "") -> Any:
    """Return a value with NaN for each null, which stands for a number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {name: _nan_for_null(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_nan_for_null(each) for each in value]
    return math.nan if value is None and key != "recorded" else value
