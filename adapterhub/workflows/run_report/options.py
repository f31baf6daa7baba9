"""Settings of a run report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.evaluation.attribution.budget import DEFAULT_BUDGET
from adapterhub.evaluation.bootstrap import LEVEL, RESAMPLES

if TYPE_CHECKING:
    from adapterhub.evaluation.attribution.budget import AttributionBudget


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """Settings of a run report.

    Args:
        resamples: Number of bootstrap resamples.
        level: Confidence level of the intervals.
        temperature: Whether to fit a temperature on the validation examples.
        max_errors: Largest number of error examples shown.
        audit_seconds: Time limit of the bias audit in seconds; 0 leaves it out.
        explanations: Limits of explaining a few predictions; ``None`` leaves them out.
    """

    resamples: int = RESAMPLES
    level: float = LEVEL
    temperature: bool = False
    max_errors: int = 10
    audit_seconds: float = 45.0
    explanations: AttributionBudget | None = DEFAULT_BUDGET


DEFAULT_REPORT = ReportOptions()
#: For one of many runs, most of whose adapters will not be used.
WITHOUT_BIAS_AUDIT = ReportOptions(audit_seconds=0.0)
