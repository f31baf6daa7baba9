"""Power law of an error over the number of training examples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Fewest points for a fit of three parameters.
LEAST_POINTS = 4


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """``error = floor + scale * examples ** -decay``.

    Source: Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically",
    arXiv:1712.00409.
    """

    floor: float
    scale: float
    decay: float

    def error(self, examples: float) -> float:
        """Return the expected error for a number of examples."""
        return float(self.floor + self.scale * examples**-self.decay)


def fit_power_law(examples: Sequence[int], errors: Sequence[float]) -> PowerLaw | None:
    """Return the best fit; ``None`` with too few points, or where the fit fails."""
    if len(set(examples)) < LEAST_POINTS:
        return None
    x, y = np.array(examples, dtype=float), np.array(errors, dtype=float)
    start = (
        max(float(y.min()) * 0.9, 0.0),
        max(float(y.max() - y.min()), 1e-6) * x.min() ** 0.5,
        0.5,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            found, _ = curve_fit(
                lambda n, floor, scale, decay: floor + scale * n**-decay,
                x,
                y,
                p0=start,
                bounds=([0.0, 0.0, 0.0], [max(float(y.max()), 1e-9), np.inf, 3.0]),
            )
    except (RuntimeError, ValueError):
        return None
    return PowerLaw(*(float(value) for value in found))
