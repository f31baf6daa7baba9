"""Expected calibration error and temperature scaling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from adapterhub.tasks.predictions import Array

BINS = 15
#: Range of fitted temperatures.
_COOLEST, _HOTTEST = 0.05, 20.0
#: Probabilities below this are rounding.
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of similar confidence, with their mean confidence and their accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Expected calibration error, and the bins with predictions."""

    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Temperature:
    """Divisor of the logits, with its cross-fitted effect.

    Args:
        value: Temperature; above 1 where predictions are overconfident.
        before: Expected calibration error without it.
        after: Expected calibration error of each half with the temperature of the other half.
        nll_before: Mean negative log-likelihood of the correct label without it.
        nll_after: The same with it, cross-fitted as ``after``.
    """

    value: float
    before: float
    after: float
    nll_before: float
    nll_after: float


def calibration(confidence: Array, correct: Array, *, bins: int = BINS) -> Calibration:
    """Return the expected calibration error over bins of equal width.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    # a bin includes its upper edge, as in the source
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        inside = place == index
        if inside.any():
            found.append(
                Bin(
                    float(edges[index]),
                    float(edges[index + 1]),
                    int(inside.sum()),
                    float(confidence[inside].mean()),
                    float(correct[inside].mean()),
                )
            )
    total = max(len(confidence), 1)
    error = sum(each.count * abs(each.accuracy - each.confidence) for each in found) / total
    return Calibration(error, tuple(found))


def fit_temperature(probabilities: Array, gold: Array) -> float:
    """Return the temperature that minimizes the negative log-likelihood of the correct labels.

    Probabilities are ``[examples, labels]``; ``gold`` has the index of each correct label.
    """
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(probabilities, _SMALLEST))
    found = minimize_scalar(
        lambda log_t: _nll(logs / np.exp(log_t), gold),
        bounds=(np.log(_COOLEST), np.log(_HOTTEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def tempered(probabilities: Array, temperature: float) -> Array:
    """Return the probabilities after dividing their logits by ``temperature``."""
    from scipy.special import logsumexp

    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    result: Array = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    return result


def temperature_of(probabilities: Array, gold: Array, *, seed: int = 0) -> Temperature:
    """Fit a temperature, and measure its effect on examples that it was not fitted on.

    Arguments are as for ``fit_temperature``; ``seed`` splits the examples into halves.
    """
    order = np.random.default_rng(seed).permutation(len(gold))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    crossed = probabilities.copy()
    for own, other in (halves, halves[::-1]):
        if len(own) and len(other):
            crossed[own] = tempered(
                probabilities[own], fit_temperature(probabilities[other], gold[other])
            )
    return Temperature(
        value=fit_temperature(probabilities, gold),
        before=_error(probabilities, gold),
        after=_error(crossed, gold),
        nll_before=_nll(np.log(np.maximum(probabilities, _SMALLEST)), gold),
        nll_after=_nll(np.log(np.maximum(crossed, _SMALLEST)), gold),
    )


def _error(probabilities: Array, gold: Array) -> float:
    return calibration(probabilities.max(-1), probabilities.argmax(-1) == gold).error


def _nll(logits: Array, gold: Array) -> float:
    from scipy.special import logsumexp

    normal = logits - logsumexp(logits, axis=-1, keepdims=True)
    return float(-normal[np.arange(len(gold)), gold].mean())
