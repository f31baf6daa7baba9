"""Does a probability mean what it says? Expected calibration error, and one temperature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

if TYPE_CHECKING:
    from adapterhub.tasks.predictions import Array

BINS = 15
#: Temperatures that are tried lie between these.
_COOLEST, _HOTTEST = 0.05, 20.0
#: Probabilities below this are rounding.
_SMALLEST = 1e-12


@dataclass(frozen=True, slots=True)
class Bin:
    """Predictions of about the same confidence.

    Args:
        low: least confidence of the bin.
        high: largest.
        count: predictions in it.
        confidence: their mean confidence.
        accuracy: share of them that is right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far confidence and accuracy are apart.

    Args:
        error: expected calibration error: the mean distance, by number of predictions.
        bins: those with predictions in them.
    """

    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Temperature:
    """One number that logits are divided by.

    Args:
        value: above 1 where predictions are too sure of themselves.
        before: expected calibration error without it.
        after: with it, each half of the examples by the temperature of the other half.
        nll_before: mean negative log-likelihood of the right label without it.
        nll_after: with it, measured as ``after``.
    """

    value: float
    before: float
    after: float
    nll_before: float
    nll_after: float


def calibration(confidence: Array, correct: Array, *, bins: int = BINS) -> Calibration:
    """Return the expected calibration error over bins of equal width.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.

    Args:
        confidence: probability of what was said, ``[predictions]``.
        correct: whether it is right, ``[predictions]``.
        bins: number of them between 0 and 1.
    """
    edges = np.linspace(0.0, 1.0, bins + 1)
    # a bin holds its upper edge, as in the source
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
    """Return the temperature with the least negative log-likelihood of the right labels.

    Args:
        probabilities: ``[examples, labels]``.
        gold: index of the right label, ``[examples]``.
    """
    logs = np.log(np.maximum(probabilities, _SMALLEST))
    found = minimize_scalar(
        lambda log_t: _nll(logs / np.exp(log_t), gold),
        bounds=(np.log(_COOLEST), np.log(_HOTTEST)),
        method="bounded",
    )
    return float(np.exp(found.x))


def tempered(probabilities: Array, temperature: float) -> Array:
    """Return probabilities whose logits were divided by ``temperature``."""
    logits = np.log(np.maximum(probabilities, _SMALLEST)) / temperature
    result: Array = np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))
    return result


def temperature_of(probabilities: Array, gold: Array, *, seed: int = 0) -> Temperature:
    """Fit a temperature, and see on examples that it was not fitted on what it brings.

    Args:
        probabilities: on validation examples, ``[examples, labels]``.
        gold: index of the right label, ``[examples]``.
        seed: by which the examples are halved.
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
    normal = logits - logsumexp(logits, axis=-1, keepdims=True)
    return float(-normal[np.arange(len(gold)), gold].mean())
