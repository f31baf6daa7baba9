"""Merge methods and their settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from adapterhub.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

#: How tensors of several adapters are merged: by a sum, or by pruning each by size or at random
#: and summing all, or those with the majority's sign.
Rule = Literal["sum", "magnitude_prune", "ties", "dare_linear", "dare_ties"]
MajoritySign = Literal["total", "frequency"]
#: Default share of values that pruning keeps.
DENSITY = 0.5


@dataclass(frozen=True, slots=True)
class MergeKind:
    """Operation of a merge method.

    Args:
        rule: Rule that merges tensors.
        on: Operands: ``ranks`` concatenates the factors, ``factors`` merges every ``A`` and every
            ``B``, ``delta`` merges the products ``s B A`` and truncates the result to a rank.
    """

    rule: Rule
    on: Literal["ranks", "factors", "delta"]

    @property
    def prunes(self) -> bool:
        """Whether the method has a density."""
        return self.rule != "sum"

    @property
    def draws(self) -> bool:
        """Whether the method has a seed."""
        return self.rule.startswith("dare")

    @property
    def elects(self) -> bool:
        """Whether the method has a majority sign."""
        return self.rule.endswith("ties")


#: Methods by name; names are those of peft's ``combination_type``, except ``concat``.
METHODS: Mapping[str, MergeKind] = {
    "concat": MergeKind("sum", "ranks"),
    "linear": MergeKind("sum", "factors"),
    "svd": MergeKind("sum", "delta"),
    "ties": MergeKind("ties", "factors"),
    "ties_svd": MergeKind("ties", "delta"),
    "dare_linear": MergeKind("dare_linear", "factors"),
    "dare_linear_svd": MergeKind("dare_linear", "delta"),
    "dare_ties": MergeKind("dare_ties", "factors"),
    "dare_ties_svd": MergeKind("dare_ties", "delta"),
    "magnitude_prune": MergeKind("magnitude_prune", "factors"),
    "magnitude_prune_svd": MergeKind("magnitude_prune", "delta"),
}


@dataclass(frozen=True, slots=True)
class MergeMethod:
    """A merge method with its settings; a setting of another method is an error.

    Args:
        name: One of ``METHODS``.
        density: Share of values that pruning keeps, above 0 and up to 1; default ``DENSITY``.
        rank: Rank of the result of an ``svd`` method; default the largest of the adapters.
        majority_sign: Sign that a ``ties`` method keeps: that of the sum of values (``total``, the
            default) or of most of them (``frequency``).
        seed: Seed of DARE's random pruning.
    """

    name: str
    density: float | None = None
    rank: int | None = None
    majority_sign: MajoritySign | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise RecipeError(
                f"there is no method {self.name!r}",
                place="composition.method",
                hint=did_you_mean(self.name, METHODS),
            )
        has = {
            "density": self.kind.prunes,
            "rank": self.kind.on == "delta",
            "majority_sign": self.kind.elects,
        }
        for setting, used in has.items():
            if getattr(self, setting) is not None and not used:
                raise _setting(setting, f"the method {self.name!r} does not use it")
        if self.density is not None and not 0.0 < self.density <= 1.0:
            raise _setting("density", f"must be above 0 and up to 1, found {self.density}")
        if self.rank is not None and self.rank < 1:
            raise _setting("rank", f"must be 1 or more, found {self.rank}")
        if self.majority_sign not in (None, "total", "frequency"):
            raise _setting(
                "majority_sign", f"must be total or frequency, found {self.majority_sign!r}"
            )

    @property
    def kind(self) -> MergeKind:
        """Operation of the method."""
        return METHODS[self.name]

    @property
    def kept(self) -> float:
        """Share of values that are kept; 1 without pruning."""
        if not self.kind.prunes:
            return 1.0
        return DENSITY if self.density is None else self.density

    def settings(self) -> dict[str, float | int | str]:
        """Return the settings that affect the result, defaults filled in, as plain JSON."""
        found: dict[str, float | int | str] = {}
        if self.kind.prunes:
            found["density"] = self.kept
        if self.rank is not None:
            found["rank"] = self.rank
        if self.kind.elects:
            found["majority_sign"] = self.majority_sign or "total"
        if self.kind.draws:
            found["seed"] = self.seed
        return found


def _setting(name: str, problem: str) -> RecipeError:
    return RecipeError(problem, place=f"composition.{name}")
