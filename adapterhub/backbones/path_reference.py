"""Hidden states of transformers' own forward, and the bound of what may differ from them."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from adapterhub.backbones.path_probes import make_probes, narrow_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.path_probes import AnyProbe, Probe
    from adapterhub.backbones.path_runs import PathRuns

#: Smallest bound of an error, as a share of the spread of the hidden states.
TOLERANCE = 1e-4
#: Bound of an error as a multiple of that of simulated rounding.
_ROUNDINGS = 4.0
#: Largest bound at which a wrong forward pass would still be seen.
_LARGEST_BOUND = 0.3


_P = TypeVar("_P", bound="AnyProbe")


class Difference(Exception):
    """The hidden states of a path differ from transformers' own."""


@dataclass(frozen=True, slots=True)
class Reference(Generic[_P]):
    """Hidden states of the probes by transformers' own forward, one at a time.

    Args:
        spread: Root mean square distance of hidden states from their mean.
        bound: Largest error of a hidden state that rounding explains, in units of ``spread``.
    """

    probes: list[_P]
    hidden: list[Tensor]
    spread: float
    bound: float

    def compare(self, found: Sequence[Tensor], expected: Sequence[Tensor] | None = None) -> None:
        """Require equality within the bound.

        Raises:
            Difference: If a hidden state differs by more.
        """
        pairs = zip(found, expected or self.hidden, strict=True)
        error = max(_error(each, own, self.spread) for each, own in pairs)
        if not error <= self.bound:
            raise Difference(
                f"hidden states differ by {error:.2g} of their spread (bound {self.bound:.2g})"
            )

    def compare_rounded(self, found: Sequence[Tensor], own: Sequence[Tensor]) -> None:
        """Require that a path is no further from this reference than transformers' own forward.

        The errors of all tokens, in order of size, may be twice as large: each is that of a few
        roundings, which one pass makes in another order than the other.

        Args:
            found: Hidden states of the path, computed in a narrow type.
            own: Those of transformers' own forward in that type.

        Raises:
            Difference: If an error is larger, or rounding would hide a wrong forward pass.
        """
        errors, rounding = (
            torch.cat([_errors(x, y, self.spread) for x, y in zip(each, self.hidden, strict=True)])
            .sort()
            .values
            for each in (found, own)
        )
        _usable(2 * float(rounding.median()), float(rounding.median()))
        if not bool((errors <= (2 * rounding).clamp(min=self.bound)).all()):
            raise Difference(
                f"hidden states differ by up to {errors[-1]:.2g} of their spread "
                f"(by rounding {rounding[-1]:.2g})"
            )


def make_reference(
    probes: list[_P], alone: Callable[..., Tensor], rounding: float
) -> Reference[_P]:
    """Return transformers' own hidden states.

    Args:
        rounding: Largest relative rounding error of a product.
    """
    hidden = [alone(probe) for probe in probes]
    states = torch.cat(hidden)
    spread = float((states - states.mean(0)).square().sum(-1).mean().sqrt())
    noise = _error(alone(probes[-1], noise=rounding), hidden[-1], spread)
    bound = _usable(max(TOLERANCE, _ROUNDINGS * noise), noise)
    return Reference(probes, hidden, spread, bound)


def _usable(bound: float, noise: float) -> float:
    if not bound <= _LARGEST_BOUND:
        raise Difference(f"rounding alone changes hidden states by {noise:.2g} of their spread")
    return bound


def text_reference(backbone: Backbone, runs: PathRuns, noise: float) -> Reference[Probe]:
    probes = make_probes(backbone.base_model, backbone.device, segments=runs.has_segments)
    return make_reference(probes, runs.alone, noise)


def _error(found: Tensor, expected: Tensor, spread: float) -> float:
    """Return the largest distance of a hidden state, in units of the spread."""
    if found.shape != expected.shape:
        return math.inf
    return float(_errors(found, expected, spread).max())


def _errors(found: Tensor, expected: Tensor, spread: float) -> Tensor:
    """Return the distance of each hidden state, in units of the spread."""
    distances = (found - expected).square().sum(-1).sqrt() / spread
    return distances.nan_to_num(nan=math.inf, posinf=math.inf)


def sentence_of(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if isinstance(error, Difference) else f"{type(error).__name__}: {text}"[:200]


@contextmanager
def probing(model: Any) -> Iterator[None]:
    """Evaluate without dropout, gradients, side effects on random numbers, or wide windows."""
    training = [module for module in model.modules() if module.training]
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        devices = [model.device] if model.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices))
        torch.manual_seed(0)
        stack.enter_context(narrow_windows(model))
        # cuDNN rounds to 10 bits
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True
