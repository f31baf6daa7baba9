"""The promotion gate: move an alias to a version only if it passes the alias's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.data.splits import fingerprint
from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    EngineError,
    FingerprintMismatch,
    NoEffectError,
    NotFoundError,
    RegistryError,
    SignatureError,
    StrictLoadError,
)
from adapterhub.refs import AdapterRef, parse_ref
from adapterhub.registry.aliases import AliasRule, StoredEvaluation
from adapterhub.registry.policy import trusted_folder
from adapterhub.training.loop import larger_is_better
from adapterhub.workflows.open_adapter import open_engine
from adapterhub.workflows.score import score
from adapterhub.workflows.stored_examples import examples_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.engine.local_engine import LocalEngine
    from adapterhub.registry.aliases import AliasMove
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: Faults of a version that fail its check; anything else is a fault of this run.
_LOAD_ERRORS = (
    ArtifactError,
    BackboneError,
    EngineError,
    FingerprintMismatch,
    NoEffectError,
    SignatureError,
    StrictLoadError,
)
#: Tolerance of comparing metrics; far below what one example changes.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PromotionCheck:
    """One requirement of a version, whether it is met, and the observed value."""

    what: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """Checks of a version, and the move of the alias, if it moved."""

    version: Version
    current: Version | None
    checks: tuple[PromotionCheck, ...]
    move: AliasMove | None = None
    forced: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def promote(
    registry: Registry,
    ref: str,
    alias: str,
    *,
    why: str = "",
    force: bool = False,
    device: str | None = None,
) -> PromotionResult:
    """Check a version against an alias's rule, and move the alias if it passes.

    The version is loaded on the backbone that serves, which verifies every byte, the
    fingerprint and every tensor, and that the adapter changes the output. Then the bounds of the
    rule are checked. Evaluations are stored in the registry, whatever the result. ``force``
    moves the alias although a check fails, and needs a reason.

    Raises:
        NotFoundError: when there is no such version.
        RegistryError: when ``force`` has no reason, or the alias moved meanwhile.
        DataError: when the rule's file can't be read.
    """
    if force and not why.strip():
        raise RegistryError(
            "forcing needs a reason", place=f"{ref} to {alias}", hint="Add --why TEXT"
        )
    version = registry.resolve(parse_ref(ref).newest)
    current = _current(registry, version.name, alias)
    rule = registry.rule(version.name, alias) or AliasRule()
    checks = _Gate(registry, rule, device).check(version, current)
    result = PromotionResult(version, current, checks)
    if not (result.passed or force):
        return result
    forced = not result.passed
    reason = f"forced: {why}" if forced else why
    expected = current.version if current else 0
    move = registry.set_alias(version.ref, alias, why=reason, expected=expected)
    return replace(result, move=move, forced=forced)


def _current(registry: Registry, name: str, alias: str) -> Version | None:
    try:
        return registry.resolve(AdapterRef(name, alias=alias))
    except NotFoundError:
        return None


class _Gate:
    """Checks versions against one rule, on one loaded backbone."""

    def __init__(self, registry: Registry, rule: AliasRule, device: str | None) -> None:
        self._registry = registry
        self._rule = rule
        self._device = device
        self._local: LocalEngine | None = None

    def check(self, version: Version, current: Version | None) -> tuple[PromotionCheck, ...]:
        try:
            loaded = self._load(version)
        except _LOAD_ERRORS as error:
            return (PromotionCheck("it loads on the backbone that serves", False, str(error)),)
        serving = f"{loaded.backbone.name}, {loaded.manifest.quantization.scheme}"
        checks = [PromotionCheck("it loads on the backbone that serves", True, serving)]
        if self._rule.metric is None:
            return tuple(checks)
        if self._rule.data is None:
            return (*checks, *self._bounds(version.metrics.get("after", {}), "in training"))
        examples = examples_for(loaded.manifest, Path(self._rule.data))
        metrics = self._evaluate(version, loaded, examples)
        checks += self._bounds(metrics, f"on {Path(self._rule.data).name}")
        if self._rule.not_worse_by is not None:
            checks.append(self._compare(current, metrics, examples, self._rule.not_worse_by))
        return tuple(checks)

    def _load(self, version: Version) -> LoadedAdapter:
        artifact = read_artifact(trusted_folder(self._registry, version))
        if self._local is None:
            self._local = open_engine(artifact, device=self._device, backbone=self._rule.backbone)
        name = str(version.ref)
        return self._local.adapters.get(name) or self._local.load(artifact, name=name)

    def _evaluate(
        self, version: Version, loaded: LoadedAdapter, examples: Dataset
    ) -> dict[str, float]:
        metrics = score(loaded, examples)
        self._registry.record_evaluation(
            StoredEvaluation(
                digest=version.digest,
                data=Path(examples.origin).name,
                data_fingerprint=fingerprint(examples),
                metrics=metrics,
            )
        )
        return metrics

    def _bounds(self, metrics: Mapping[str, float], where: str) -> list[PromotionCheck]:
        name = str(self._rule.metric)
        value = metrics.get(name, math.nan)
        checks = []
        for words, bound, sign in (
            ("at least", self._rule.at_least, 1),
            ("at most", self._rule.at_most, -1),
        ):
            if bound is None:
                continue
            what = f"{name} {where} is {words} {bound:g}"
            if math.isnan(value):
                checks.append(_unknown_metric(what, metrics))
            else:
                passed = sign * value >= sign * bound
                checks.append(PromotionCheck(what, passed, f"{value:.4f}"))
        return checks

    def _compare(
        self,
        current: Version | None,
        metrics: Mapping[str, float],
        examples: Dataset,
        margin: float,
    ) -> PromotionCheck:
        name = str(self._rule.metric)
        what = f"{name} is not worse than the current version's by more than {margin:g}"
        if current is None:
            return PromotionCheck(what, True, "the alias points to no version yet")
        if name not in metrics:
            return _unknown_metric(what, metrics)
        try:
            before = self._current_value(current, name, examples)
        except AdapterHubError as error:
            found = f"the current version {current.ref} can't be evaluated: {error}"
            return PromotionCheck(what, False, found)
        smaller = self._rule.at_most is not None or not larger_is_better(name)
        worse = metrics[name] - before if smaller else before - metrics[name]
        found = f"{metrics[name]:.4f}, {current.ref} has {before:.4f}"
        # 0.95 - 0.94 is a little more than 0.01 in floating point
        return PromotionCheck(what, worse <= margin + _ROUNDING, found)

    def _current_value(self, current: Version, name: str, examples: Dataset) -> float:
        digest = fingerprint(examples)
        for known in self._registry.evaluations(current):
            if known.data_fingerprint == digest and name in known.metrics:
                return known.metrics[name]
        return self._evaluate(current, self._load(current), examples)[name]


def _unknown_metric(what: str, metrics: Mapping[str, float]) -> PromotionCheck:
    known = ", ".join(sorted(metrics)) or "none"
    return PromotionCheck(what, False, f"no such metric; known metrics: {known}")
