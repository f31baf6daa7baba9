"""The promotion gate: an alias moves to a version only if the version passes the alias's rule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.adapters.artifact import read_artifact
from adapterhub.data.fingerprint import fingerprint
from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    FingerprintMismatch,
    NoEffectError,
    NotFoundError,
    RegistryError,
    SignatureError,
    StrictLoadError,
)
from adapterhub.refs import AdapterRef
from adapterhub.registry.policy import trusted_folder
from adapterhub.registry.rules import AliasRule, StoredEvaluation
from adapterhub.workflows.open_adapter import open_session
from adapterhub.workflows.score import examples_for, score

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.session import LoadedAdapter, Session
    from adapterhub.registry.aliases import AliasMove
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: What of a version keeps it from being loaded; anything else is a fault of this run.
_REFUSALS = (
    ArtifactError,
    BackboneError,
    FingerprintMismatch,
    NoEffectError,
    SignatureError,
    StrictLoadError,
)
#: Of the difference of two metrics; far below what one row of an evaluation changes.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PromotionCheck:
    """One thing that was asked of a version.

    Args:
        what: in a few words.
        passed: whether it holds.
        found: what was seen.
    """

    what: str
    passed: bool
    found: str


@dataclass(frozen=True, slots=True)
class PromotionResult:
    """What came of asking for a promotion.

    Args:
        version: that was to be promoted.
        holder: version that the alias pointed to, if any.
        checks: all that was asked.
        move: of the alias; ``None`` where it did not move.
        forced: whether it moved although a check failed.
    """

    version: Version
    holder: Version | None
    checks: tuple[PromotionCheck, ...]
    move: AliasMove | None = None
    forced: bool = False

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
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
    """Judge a version by an alias's rule, and move the alias if it passes.

    The version is loaded on the backbone that serves, which checks every byte, the
    fingerprint, every tensor, and that it changes the output at all. Then come the bounds of
    the rule. What was evaluated is kept in the registry, whatever the verdict.

    Args:
        registry: that holds it.
        ref: of the version.
        alias: to move.
        why: for the history; with ``force`` it must be given.
        force: move it all the same.
        device: the first GPU where there is one, else the CPU.

    Raises:
        NotFoundError: when there is no such version.
        RegistryError: when ``force`` has no reason, or the alias moved meanwhile.
        DataError: when the rule's file can't be read.
    """
    if force and not why.strip():
        raise RegistryError(
            "forcing needs a reason", place=f"{ref} to {alias}", hint="Add --why TEXT"
        )
    version = registry.resolve(ref)
    holder = _holder(registry, version.name, alias)
    rule = registry.rule(version.name, alias) or AliasRule()
    verdict = PromotionResult(
        version, holder, _Judge(registry, rule, device).checks(version, holder)
    )
    if not (verdict.passed or force):
        return verdict
    forced = not verdict.passed
    reason = f"forced: {why}" if forced else why
    move = registry.set_alias(
        version.ref, alias, why=reason, expected=holder.version if holder else 0
    )
    return PromotionResult(version, holder, verdict.checks, move, forced)


def _holder(registry: Registry, name: str, alias: str) -> Version | None:
    try:
        return registry.resolve(AdapterRef(name, alias=alias))
    except NotFoundError:
        return None


class _Judge:
    """Makes the checks of one rule; the session is shared by the two versions compared."""

    def __init__(self, registry: Registry, rule: AliasRule, device: str | None) -> None:
        self._registry = registry
        self._rule = rule
        self._device = device
        self._session: Session | None = None

    def checks(self, version: Version, holder: Version | None) -> tuple[PromotionCheck, ...]:
        try:
            loaded = self._load(version)
        except _REFUSALS as error:
            return (PromotionCheck("it loads on the backbone that serves", False, str(error)),)
        serving = f"{loaded.model.backbone.name}, {loaded.manifest.quantization.scheme}"
        checks = [PromotionCheck("it loads on the backbone that serves", True, serving)]
        if self._rule.metric is None:
            return tuple(checks)
        if self._rule.data is None:
            return (*checks, *self._bounds(version.metrics.get("after", {}), "in training"))
        rows = examples_for(loaded, Path(self._rule.data))
        metrics = self._evaluated(version, loaded, rows)
        checks += self._bounds(metrics, f"on {Path(self._rule.data).name}")
        if self._rule.not_worse_by is not None:
            checks.append(self._against(holder, metrics, rows))
        return tuple(checks)

    def _load(self, version: Version) -> LoadedAdapter:
        artifact = read_artifact(trusted_folder(self._registry, version))
        if self._session is None:
            self._session = open_session(
                artifact, device=self._device, backbone=self._rule.backbone
            )
        return self._session.load(artifact, name=str(version.ref))

    def _evaluated(
        self, version: Version, loaded: LoadedAdapter, rows: Dataset
    ) -> dict[str, float]:
        if self._session is None:
            raise RegistryError("nothing is loaded", place=str(version.ref))
        metrics = score(self._session, loaded, rows)
        self._registry.record_evaluation(
            StoredEvaluation(
                digest=version.digest,
                data=Path(rows.origin).name,
                data_fingerprint=fingerprint(rows),
                metrics=metrics,
            )
        )
        return metrics

    def _bounds(self, metrics: Mapping[str, float], where: str) -> list[PromotionCheck]:
        rule, name = self._rule, str(self._rule.metric)
        value = metrics.get(name)
        bounds: list[tuple[str, float | None, Callable[[float, float], bool]]] = [
            ("at least", rule.at_least, lambda found, bound: found >= bound),
            ("at most", rule.at_most, lambda found, bound: found <= bound),
        ]
        checks = []
        for words, bound, holds in bounds:
            if bound is not None:
                what = f"{name} {where} is {words} {bound:g}"
                if value is None or math.isnan(value):
                    known = ", ".join(sorted(metrics)) or "none"
                    checks.append(
                        PromotionCheck(what, False, f"no such metric; there are: {known}")
                    )
                else:
                    checks.append(PromotionCheck(what, holds(value, bound), f"{value:.4f}"))
        return checks

    def _against(
        self, holder: Version | None, metrics: Mapping[str, float], rows: Dataset
    ) -> PromotionCheck:
        rule, name = self._rule, str(self._rule.metric)
        what = f"{name} is not worse than the holder's by more than {rule.not_worse_by:g}"
        if holder is None:
            return PromotionCheck(what, True, "the alias points to nothing yet")
        if name not in metrics:
            return PromotionCheck(
                what, False, f"no such metric; there are: {', '.join(sorted(metrics))}"
            )
        try:
            before = self._holder_value(holder, name, rows)
        except AdapterHubError as error:
            return PromotionCheck(
                what, False, f"the holder {holder.ref} can't be evaluated: {error}"
            )
        worse = metrics[name] - before if _less_is_better(rule) else before - metrics[name]
        found = f"{metrics[name]:.4f}, {holder.ref} has {before:.4f}"
        # 0.95 - 0.94 is a little more than 0.01 in floating point
        return PromotionCheck(what, worse <= (rule.not_worse_by or 0.0) + _ROUNDING, found)

    def _holder_value(self, holder: Version, name: str, rows: Dataset) -> float:
        wanted = fingerprint(rows)
        for known in self._registry.evaluations(holder):
            if known.data_fingerprint == wanted and name in known.metrics:
                return known.metrics[name]
        session = self._session
        ref = str(holder.ref)
        if session is not None and ref in session.adapters:
            return self._evaluated(holder, session.adapters[ref], rows)[name]
        return self._evaluated(holder, self._load(holder), rows)[name]


def _less_is_better(rule: AliasRule) -> bool:
    return rule.at_most is not None or rule.metric in ("loss", "perplexity")
