"""Keep an adapter current: find drift, see whether it matters, train a child, register it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.adapters.artifact import read_artifact
from adapterhub.data.fingerprint import fingerprint
from adapterhub.data.splits import repeated
from adapterhub.engine.session import Session
from adapterhub.errors import DataError, RecipeError
from adapterhub.evaluation.drift import LEVEL
from adapterhub.registry.policy import require_unsigned_loads, trusted_folder
from adapterhub.training.loop import watched_metric
from adapterhub.training.prepare import text_fields
from adapterhub.training.progress import Reporters
from adapterhub.training.recipe_file import apply_override, parse_recipe
from adapterhub.training.setup import open_backbone
from adapterhub.training.train import WarmStart
from adapterhub.workflows.refresh.child import write_child
from adapterhub.workflows.refresh.document import (
    AddedFile,
    RefreshDocument,
    read_document,
    request_digest,
)
from adapterhub.workflows.refresh.examples import (
    RefreshExamples,
    find_old,
    mix,
    read_new_examples,
    refuse_unknown_labels,
    split_new,
)
from adapterhub.workflows.refresh.findings import (
    Loss,
    RefreshOutcome,
    compare_outcomes,
    find_drift,
    find_loss,
    score,
)
from adapterhub.workflows.refresh.serialization import read_findings, tell
from adapterhub.workflows.train_run import register_run, train_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.dataset import Dataset
    from adapterhub.engine.session import LoadedAdapter
    from adapterhub.evaluation.drift import Drift
    from adapterhub.evaluation.example_statistics import Scores
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version
    from adapterhub.tasks.base import Task
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe

#: Share of the old training rows that the child learns again.
REPLAY = 0.25
#: Keys that say where old rows are now; their fingerprints tell whether they are the same.
_PLACES = ("data.train", "data.validation", "data.test")


@dataclass(frozen=True, slots=True)
class RefreshOptions:
    """How to refresh.

    Args:
        fields: the task's field to the new file's; the recipe's where ``None``.
        replay: share of the old training rows that the child learns again, in [0, 1].
        level: chance of finding drift where there is none.
        anyway: train also where there is neither drift nor loss.
        dry_run: find out, and train nothing.
        folder: of the run; named by what decides the child where ``None``.
        overrides: ``key.path=value`` each, for the child's recipe.
        device: the first GPU where there is one, else the CPU.
    """

    fields: Mapping[str, str] | None = None
    replay: float = REPLAY
    level: float = LEVEL
    anyway: bool = False
    dry_run: bool = False
    folder: Path | None = None
    overrides: Sequence[str] = ()
    device: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """What came of it.

    Args:
        parent: the version that was looked at.
        rows: new rows.
        drift: between its training rows and the new ones.
        loss: of its metric on the new rows.
        outcome: of training; ``None`` where nothing was trained.
        child: the new version; ``None`` where nothing was trained.
        folder: of the run, if there was one now.
        done_before: whether the child is an earlier one, of the same refresh; nothing was
            computed now, and all the rest is what was found then.
    """

    parent: Version
    rows: int
    drift: Drift
    loss: Loss
    outcome: RefreshOutcome | None = None
    child: Version | None = None
    folder: Path | None = None
    done_before: bool = False

    @property
    def is_due(self) -> bool:
        """Whether there is drift, or the new rows are answered worse."""
        return bool(self.drift.found) or self.loss.shown

    def document(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {
            "parent": {"ref": str(self.parent.ref), "digest": self.parent.digest},
            "rows": self.rows,
            **tell(self.drift, self.loss),
            "due": self.is_due,
            **(self.outcome.document() if self.outcome else {"forgetting": None, "gain": None}),
            "child": {"ref": str(self.child.ref), "digest": self.child.digest}
            if self.child
            else None,
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
    """Look at new rows with an adapter, and train a child on them where that is due.

    No alias is moved; that is the gate's to do. After a kill at any point the same call goes
    on, and ends with one child.

    Args:
        registry: that holds the adapter, and gets the child.
        ref: of the adapter.
        path: of the new rows, with their answers.
        options: how.
        reporter: hears of every step of training.

    Raises:
        NotFoundError: when there is no such version.
        RecipeError: when nobody recorded how it was trained, or it can't be gone on from.
        DataError: when new rows can't be used, or old ones are not there any more.
        SignatureError: when only signed adapters are loaded; the child would be none.
        TrainingError: when the run's folder holds another one.
        TrainingInterrupted: after Ctrl-C or SIGTERM; the same call goes on.
    """
    if not 0.0 <= options.replay <= 1.0:
        raise RecipeError(f"{options.replay:g} is no share, 0 to 1", place="--replay")
    version = registry.resolve(ref)
    folder = trusted_folder(registry, version)
    artifact = read_artifact(folder)
    recipe = _recipe(artifact, version, options.overrides)
    new = read_new_examples(recipe, path, options.fields)
    request = _request(options, fingerprint(new))
    before = None if options.dry_run else _done_before(registry, version, request, len(new))
    if before is not None:
        return before
    rows = _rows(artifact, folder, recipe, new, path, options, str(version.ref))
    teller = Reporters([reporter] if reporter else [])
    _warn(rows, teller)
    backbone = open_backbone(recipe, device=options.device)
    loaded = Session(backbone).load(artifact, name=str(version.ref))
    loaded.model.activate()
    drift = find_drift(loaded.model, loaded.task, rows, recipe, level=options.level)
    old = score(loaded.model, loaded.task, rows.judged)
    metric = _metric(recipe, loaded.task, old)
    loss = find_loss(
        old,
        score(loaded.model, loaded.task, rows.new),
        metric,
        recorded=artifact.manifest.metrics.after.get(metric[0]),
        split=rows.judged_by,
    )
    found = RefreshResult(version, len(rows.new), drift, loss)
    if options.dry_run or not (found.is_due or options.anyway):
        return found
    require_unsigned_loads(registry, "refresh")
    _require_unseen(rows, str(version.ref))
    held_out = score(loaded.model, loaded.task, rows.held_out)
    # training puts an adapter of its own on the body
    loaded.model.close()
    run = options.folder or _folder(version, request(artifact.digest))
    start = WarmStart(
        artifact.digest,
        artifact.weights.tensors,
        mix(rows, recipe, loaded.task.labels, options.replay),
    )
    result = train_run(
        recipe, output=run, resume=True, reporter=reporter, backbone=backbone, start=start
    )
    outcome = _outcome(backbone, result.artifact, rows, (old, held_out))
    document = RefreshDocument(
        parent=artifact.digest,
        root=rows.root,
        added=(*_added(folder), rows.file),
        replay=options.replay,
        findings={**tell(drift, loss), **outcome.document()},
        request=request(artifact.digest),
    )
    target = write_child(result.artifact, document, str(version.ref))
    child = register_run(registry, version.name, result, target)
    return RefreshResult(version, len(rows.new), drift, loss, outcome, child, run)


def _request(options: RefreshOptions, rows: str) -> Callable[[str], str]:
    """Return a function from a parent's digest to the digest of this refresh of it."""
    overrides = [each for each in options.overrides if each.partition("=")[0] not in _PLACES]
    return lambda parent: request_digest(parent, rows, options.replay, overrides)


def _done_before(
    registry: Registry, version: Version, request: Callable[[str], str], rows: int
) -> RefreshResult | None:
    """Return what this same refresh came to where its child is registered; else ``None``.

    The version itself may be that child: the latest one is, after the refresh, and an alias may
    have been moved to it.
    """
    versions = {each.digest: each for each in registry.versions(version.name)}
    children = [each for each in versions.values() if each.parent == version.digest]
    for child in (version, *children):
        parent = versions.get(child.parent or "")
        document = read_document(registry.materialize(child)) if parent else None
        if parent and document and document.request == request(parent.digest):
            found = read_findings(document.findings)
            return RefreshResult(parent, rows, *found, child=child, done_before=True)
    return None


def _warn(rows: RefreshExamples, reporter: Reporter) -> None:
    """Say where rows repeat others, so that figures are not taken for more than they are."""
    count = rows.learned_before
    if count:
        reporter.on_message(
            f"warning: {count} of {len(rows.new)} new rows are old training rows; they show no "
            "drift, and the gain is measured without them"
        )
    learned = rows.parts["train"]
    judged = repeated(learned, rows.judged, text_fields(learned))
    if judged:
        reporter.on_message(
            f"warning: {judged} old {rows.judged_by} rows repeat the text of a new one that the "
            "child would learn; forgetting would look smaller than it is"
        )


def _require_unseen(rows: RefreshExamples, name: str) -> None:
    if not rows.held_out.examples:
        raise DataError(
            f"no gain could be measured: all new rows that are held out are among those that "
            f"{name} was trained on",
            place=rows.new.name,
            hint="Give rows that it has not learned yet",
        )


def _recipe(artifact: Artifact, version: Version, overrides: Sequence[str]) -> Recipe:
    manifest, place = artifact.manifest, str(version.ref)
    if {"recipe", "data"} & set(manifest.unknown) or "data" not in manifest.recipe:
        raise RecipeError(
            "nobody recorded on which rows it was trained, and how",
            place=place,
            hint="Only an adapter that adapterhub train made can be refreshed",
        )
    document = json.loads(json.dumps(dict(manifest.recipe)))
    for override in overrides:
        key = override.partition("=")[0]
        if key.partition(".")[0] not in ("optimizer", "schedule", "train") and not _moves(
            document, key
        ):
            raise RecipeError(
                "can't be changed by a refresh",
                place=key,
                hint="A child is trained as its parent was, on the same task and backbone; only "
                "keys of optimizer, schedule and train may differ, and the path of old rows that "
                "were moved",
            )
        apply_override(document, override)
    recipe = parse_recipe(document)
    if getattr(recipe.adapter, "projection", False):
        raise RecipeError(
            "the network that made its prefix was not kept, so it can't be trained further",
            place=place,
            hint="Train it anew on old and new rows",
        )
    return recipe


def _moves(document: Mapping[str, Any], key: str) -> bool:
    """Tell whether a key says where old rows are now."""
    return key in _PLACES and document["data"].get(key.partition(".")[2]) is not None


def _rows(
    artifact: Artifact,
    folder: Path,
    recipe: Recipe,
    new: Dataset,
    path: Path,
    options: RefreshOptions,
    name: str,
) -> RefreshExamples:
    refuse_unknown_labels(new, recipe, artifact.manifest.labels, name)
    document = read_document(folder)
    root = (
        document.root
        if document
        else {split: source.fingerprint for split, source in artifact.manifest.data.items()}
    )
    fields = recipe.data.fields if options.fields is None else options.fields
    return RefreshExamples(
        old=find_old(recipe, root, _added(folder), name),
        root=root,
        new=new,
        parts=split_new(new, recipe),
        file=AddedFile(
            path=str(path), fingerprint=fingerprint(new), num_examples=len(new), fields=dict(fields)
        ),
        earlier=len(_added(folder)),
        seed=recipe.data.split.seed,
    )


def _added(folder: Path) -> tuple[AddedFile, ...]:
    document = read_document(folder)
    return document.added if document else ()


def _metric(recipe: Recipe, task: Task, scores: Scores) -> tuple[str, bool]:
    """Return what decides: the recipe's metric where rows can be resampled for it."""
    import numpy as np

    wanted = watched_metric(recipe.train, task.default_metric)
    known = scores.metrics(np.arange(scores.size)[None, :])
    return wanted if wanted[0] in known else task.default_metric


def _folder(version: Version, request: str) -> Path:
    short = request.removeprefix("sha256:")[:8]
    return Path("runs") / f"{version.name}-refresh-{version.version}-{short}"


def _outcome(
    backbone: Backbone, artifact: Path, rows: RefreshExamples, parent: tuple[Scores, Scores]
) -> RefreshOutcome:
    loaded: LoadedAdapter = Session(backbone).load(read_artifact(artifact), name="child")
    loaded.model.activate()
    child = (
        score(loaded.model, loaded.task, rows.judged),
        score(loaded.model, loaded.task, rows.held_out),
    )
    loaded.model.close()
    return compare_outcomes(rows.judged_by, parent, child)
