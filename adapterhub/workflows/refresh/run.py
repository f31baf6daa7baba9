"""Refresh an adapter: detect drift, train a child on new examples, register it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import read_artifact
from adapterhub.adapters.local_paths import file_name
from adapterhub.data.splits import count_repeated, fingerprint
from adapterhub.engine.local_engine import LocalEngine
from adapterhub.errors import DataError, RecipeError
from adapterhub.evaluation.drift import LEVEL
from adapterhub.refs import parse_ref
from adapterhub.registry.policy import require_unsigned_loads, trusted_folder
from adapterhub.training.loop import watched_metric
from adapterhub.training.prepare import load_more_examples, text_fields
from adapterhub.training.progress import Reporters
from adapterhub.training.recipe_file import apply_override, parse_recipe
from adapterhub.training.setup import open_backbone
from adapterhub.training.train import WarmStart
from adapterhub.workflows.local_files import added_files, with_local_files
from adapterhub.workflows.refresh.document import (
    AddedFile,
    RefreshDocument,
    read_document,
    request_digest,
    write_child,
)
from adapterhub.workflows.refresh.examples import (
    RefreshData,
    check_labels,
    load_old_splits,
    mix_replay,
    split_new,
)
from adapterhub.workflows.refresh.findings import (
    MetricChange,
    RefreshOutcome,
    compare_outcomes,
    find_drift,
    findings_document,
    measure_change,
    metrics_of,
    read_findings,
    score,
)
from adapterhub.workflows.train_run import register_run, train_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.evaluation.drift import Drift
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version
    from adapterhub.tasks.base import Task
    from adapterhub.tasks.predictions import Scores
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe

#: Default share of the old training examples in the child's training data.
REPLAY = 0.25
#: Keys that locate old files; fingerprints verify that the examples are the same.
_PATH_KEYS = ("data.train", "data.validation", "data.test")


@dataclass(frozen=True, slots=True)
class RefreshOptions:
    """Settings of a refresh.

    Args:
        fields: Column of each task field in the new file; the recipe's where ``None``.
        replay: Share of the old training examples that the child trains on again, in [0, 1].
        level: Significance level of the drift tests.
        force: Whether to train also without drift or a worse metric.
        dry_run: Whether to stop before training.
        folder: Run folder; named by the digest of the refresh where ``None``.
        overrides: ``key.path=value`` each, for the child's recipe.
        device: Device; the first GPU where there is one, else the CPU.
    """

    fields: Mapping[str, str] | None = None
    replay: float = REPLAY
    level: float = LEVEL
    force: bool = False
    dry_run: bool = False
    folder: Path | None = None
    overrides: Sequence[str] = ()
    device: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """Result of a refresh; without outcome and child where nothing was trained.

    With ``done_before`` an earlier call made the child, and the findings are the stored ones.
    """

    parent: Version
    num_new: int
    drift: Drift
    metric_change: MetricChange
    outcome: RefreshOutcome | None = None
    child: Version | None = None
    folder: Path | None = None
    done_before: bool = False

    @property
    def is_due(self) -> bool:
        """Whether there is drift, or the metric is worse on the new examples."""
        return bool(self.drift.found) or self.metric_change.is_worse

    def document(self) -> dict[str, Any]:
        """Return the result as plain JSON."""
        outcome = self.outcome.document() if self.outcome else {"forgetting": None, "gain": None}
        child = {"ref": str(self.child.ref), "digest": self.child.digest} if self.child else None
        return {
            "parent": {"ref": str(self.parent.ref), "digest": self.parent.digest},
            "num_examples": self.num_new,
            **findings_document(self.drift, self.metric_change),
            "due": self.is_due,
            **outcome,
            "child": child,
            "folder": str(self.folder) if self.folder else None,
            "done_before": self.done_before,
        }


def refresh(
    registry: Registry,
    ref: str,
    path: Path,
    options: RefreshOptions,
    *,
    reporter: Reporter | None = None,
) -> RefreshResult:
    """Test an adapter on a file of new examples, and train a child on them where it is due.

    No alias is moved; that is the promotion gate's task. After a kill at any point the same call
    resumes, and ends with one child.

    Raises:
        NotFoundError: when there is no such version.
        RecipeError: when its training is not recorded, or can't be continued.
        DataError: when new examples can't be used, or old ones are missing.
        SignatureError: when only signed adapters may be loaded, since the child would be unsigned.
        TrainingError: when the run folder holds another run.
        TrainingInterrupted: after Ctrl-C or SIGTERM; the same call resumes.
    """
    if not 0.0 <= options.replay <= 1.0:
        raise RecipeError(f"is a share from 0 to 1, not {options.replay:g}", place="--replay")
    version = registry.resolve(parse_ref(ref).newest)
    folder = trusted_folder(registry, version)
    artifact = read_artifact(folder)
    recipe = _child_recipe(artifact, version, options.overrides)
    new = load_more_examples(recipe.data, recipe.task.name, path, options.fields)
    request = _request(options, fingerprint(new))
    before = None if options.dry_run else _done_before(registry, version, request, len(new))
    if before is not None:
        return before

    data = _load_data(artifact, folder, recipe, new, path, options, version)
    _warn_of_repeats(data, Reporters([reporter] if reporter else []))
    backbone = open_backbone(recipe, device=options.device)
    loaded = LocalEngine(backbone).load(artifact, name=str(version.ref))
    drift, change, old_scores = _assess(loaded, data, recipe, options.level)
    result = RefreshResult(version, len(data.new), drift, change)
    if options.dry_run or not (result.is_due or options.force):
        return result

    require_unsigned_loads(registry, "refresh")
    _require_unseen(data, str(version.ref))
    held_out = score(loaded, data.held_out)
    # training puts its own adapter on the backbone
    loaded.local.close()
    run = options.folder or _run_folder(version, request(artifact.digest))
    start = WarmStart(
        artifact.digest,
        artifact.weights.tensors,
        mix_replay(data, recipe, loaded.task.labels, options.replay),
    )
    trained = train_run(
        recipe, output=run, resume=True, reporter=reporter, backbone=backbone, start=start
    )
    outcome = _outcome(backbone, trained.artifact, data, (old_scores, held_out))
    document = RefreshDocument(
        parent=artifact.digest,
        root=data.root,
        added=tuple(replace(each, path=file_name(each.path)) for each in (*data.added, data.file)),
        replay=options.replay,
        findings={**findings_document(drift, change), **outcome.document()},
        request=request(artifact.digest),
    )
    target = write_child(trained.artifact, document, str(version.ref))
    paths = {each.fingerprint: each.path for each in (*data.added, data.file)}
    child = register_run(registry, recipe, trained, target, name=version.name, added=paths)
    return RefreshResult(version, len(data.new), drift, change, outcome, child, run)


def _assess(
    loaded: LoadedAdapter, data: RefreshData, recipe: Recipe, level: float
) -> tuple[Drift, MetricChange, Scores]:
    """Test for drift and compare the metric on new and old examples; also return old scores."""
    drift = find_drift(loaded, data, recipe, level=level)
    old_scores, new_scores = score(loaded, data.old_examples), score(loaded, data.new)
    metric = _deciding_metric(recipe, loaded.task, old_scores)
    recorded = loaded.manifest.metrics.after.get(metric[0])
    change = measure_change(old_scores, new_scores, metric, recorded=recorded, split=data.old_split)
    return drift, change, old_scores


def _request(options: RefreshOptions, examples: str) -> Callable[[str], str]:
    """Return a function from a parent's digest to the digest of this refresh of it."""
    overrides = [each for each in options.overrides if each.partition("=")[0] not in _PATH_KEYS]
    return lambda parent: request_digest(parent, examples, options.replay, overrides)


def _done_before(
    registry: Registry, version: Version, request: Callable[[str], str], num_new: int
) -> RefreshResult | None:
    """Return the result of this same refresh where its child is registered; else ``None``.

    ``version`` may itself be that child, when it is the latest version or an alias has been moved
    to it since.
    """
    versions = {each.digest: each for each in registry.versions(version.name)}
    children = [each for each in versions.values() if each.parent == version.digest]
    for child in (version, *children):
        parent = versions.get(child.parent or "")
        document = read_document(registry.materialize(child)) if parent else None
        if parent and document and document.request == request(parent.digest):
            found = read_findings(document.findings)
            return RefreshResult(parent, num_new, *found, child=child, done_before=True)
    return None


def _warn_of_repeats(data: RefreshData, reporter: Reporter) -> None:
    """Report repeated examples that would distort drift, gain or forgetting."""
    if data.num_seen:
        reporter.on_message(
            f"warning: {data.num_seen} of {len(data.new)} new examples are old training examples; "
            "they hide drift, and the gain is measured without them"
        )
    train = data.new_splits["train"]
    overlapping = count_repeated(train, data.old_examples, text_fields(train))
    if overlapping:
        reporter.on_message(
            f"warning: {overlapping} old {data.old_split} examples repeat the text of a new "
            "training example, so forgetting would be underestimated"
        )


def _require_unseen(data: RefreshData, name: str) -> None:
    if not data.held_out.examples:
        raise DataError(
            f"no gain could be measured: {name} was trained on all held-out new examples",
            place=data.new.name,
            hint="Pass examples that it was not trained on",
        )


def _child_recipe(artifact: Artifact, version: Version, overrides: Sequence[str]) -> Recipe:
    """Return the parent's recipe with the overrides that a refresh may change."""
    manifest, place = artifact.manifest, str(version.ref)
    if {"recipe", "data"} & set(manifest.unknown) or "data" not in manifest.recipe:
        raise RecipeError(
            "its training recipe and data are not recorded",
            place=place,
            hint="Only an adapter that adapterhub train made can be refreshed",
        )
    document = with_local_files(json.loads(json.dumps(dict(manifest.recipe))), version)
    for override in overrides:
        key = override.partition("=")[0]
        if not _may_change(document, key):
            raise RecipeError(
                "can't be changed by a refresh",
                place=key,
                hint="A child is trained like its parent, on the same task and backbone; only "
                "keys of optimizer, schedule and train may differ, and the paths of moved files",
            )
        apply_override(document, override)
    recipe = parse_recipe(document)
    if getattr(recipe.adapter, "projection", False):
        raise RecipeError(
            "its prefix projection was not stored, so it can't be trained further",
            place=place,
            hint="Train a new adapter on old and new examples",
        )
    return recipe


def _may_change(document: Mapping[str, Any], key: str) -> bool:
    section, _, rest = key.partition(".")
    if section in ("optimizer", "schedule", "train"):
        return True
    # the path of an old file that has moved
    return key in _PATH_KEYS and document["data"].get(rest) is not None


def _load_data(
    artifact: Artifact,
    folder: Path,
    recipe: Recipe,
    new: Dataset,
    path: Path,
    options: RefreshOptions,
    version: Version,
) -> RefreshData:
    name = str(version.ref)
    check_labels(new, recipe, artifact.manifest.labels, name)
    document = read_document(folder)
    sources = artifact.manifest.data
    root = document.root if document else {n: each.fingerprint for n, each in sources.items()}
    paths = added_files(version)
    added = tuple(
        replace(each, path=paths.get(each.fingerprint, each.path))
        for each in (document.added if document else ())
    )
    fields = recipe.data.fields if options.fields is None else options.fields
    return RefreshData(
        old=load_old_splits(recipe, root, added, name),
        root=root,
        new=new,
        new_splits=split_new(new, recipe),
        file=AddedFile(
            path=str(path), fingerprint=fingerprint(new), num_examples=len(new), fields=dict(fields)
        ),
        added=added,
        seed=recipe.data.split.seed,
    )


def _deciding_metric(recipe: Recipe, task: Task, scores: Scores) -> tuple[str, bool]:
    """Return the recipe's metric where it can be resampled, else the task's own."""
    watched = watched_metric(recipe.train, task.default_metric)
    return watched if watched[0] in metrics_of(scores) else task.default_metric


def _run_folder(version: Version, request: str) -> Path:
    short = request.removeprefix("sha256:")[:8]
    return Path("runs") / f"{version.name}-refresh-{version.version}-{short}"


def _outcome(
    backbone: Backbone, artifact: Path, data: RefreshData, parent: tuple[Scores, Scores]
) -> RefreshOutcome:
    loaded = LocalEngine(backbone).load(read_artifact(artifact), name="child")
    child = score(loaded, data.old_examples), score(loaded, data.held_out)
    loaded.local.close()
    return compare_outcomes(data.old_split, parent, child)
