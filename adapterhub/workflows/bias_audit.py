"""Probe a stored adapter beside its backbone: bias of one that labels, harm of one that talks."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.errors import AdapterHubError, DataError
from adapterhub.evaluation.bias_audit.audit import is_auditable, run_bias_audit
from adapterhub.evaluation.bootstrap import LEVEL
from adapterhub.training.prepare import load_examples
from adapterhub.training.recipe_file import parse_recipe
from adapterhub.workflows.open_adapter import open_adapter
from adapterhub.workflows.score import examples_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.engine.session import LoadedAdapter
    from adapterhub.evaluation.bias_audit.results import BiasAuditResult
    from adapterhub.registry.registry import Registry
    from adapterhub.tasks.base import Example

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdapterAudit:
    """What came of probing an adapter.

    Args:
        ref: of the adapter.
        task: that it does.
        found: by the probes.
    """

    ref: str
    task: str
    found: BiasAuditResult


def audit_adapter(
    registry: Registry,
    ref: str,
    *,
    path: Path | None = None,
    fields: Mapping[str, str] | None = None,
    limit: int | None = None,
    seconds: float,
    level: float = LEVEL,
    force: bool = False,
    device: str | None = None,
) -> AdapterAudit:
    """Measure an adapter beside the backbone that it was trained on.

    What it is compared with is learned from the training rows that its recipe names, if they are
    still there, else from ``path``.

    Args:
        registry: that holds it.
        ref: which version.
        path: of rows in which words are exchanged too, read as its recipe reads its data.
        fields: the task's field to the file's; the recipe's where not given.
        limit: only the first rows.
        seconds: after which no more is started.
        level: confidence of the intervals.
        force: accept a backbone with another fingerprint.
        device: the first GPU where there is one, else the CPU.

    Raises:
        NotFoundError: when there is no such version.
        DataError: when the rows can't be used, or no probe fits the task.
    """
    session, loaded, version = open_adapter(registry, ref, force=force, device=device)
    if not is_auditable(loaded.task):
        raise DataError(
            f"no probe fits {loaded.task.name}",
            place=str(version.ref),
            hint="Probes exchange words, and a picture has none",
        )
    rows: Sequence[Example] = ()
    if path is not None:
        if loaded.task.head == "causal_lm":
            raise DataError(
                f"an adapter for {loaded.task.name} is probed with requests of our own",
                place="--data",
                hint="Leave the file out",
            )
        rows = examples_for(loaded, path, fields=fields, limit=limit).examples
    training = _training_rows(loaded) or rows
    found = run_bias_audit(
        session.model(loaded.name),
        loaded.task,
        rows=rows,
        training=training,
        seconds=seconds,
        level=level,
    )
    if found is None or not found.measures:
        raise DataError(
            "no word in it can be exchanged for another"
            if path
            else "needs rows to be probed with",
            place=str(path or version.ref),
            hint="Give rows that speak of people, in English, with --data FILE; docs/probes.md "
            "says which words count",
        )
    return AdapterAudit(str(version.ref), loaded.task.name, found)


def _training_rows(loaded: LoadedAdapter) -> Sequence[Example]:
    """Return the rows that the adapter's recipe names; none where they are not at hand."""
    if "recipe" in loaded.manifest.unknown or loaded.task.head == "causal_lm":
        return ()
    try:
        section = parse_recipe(loaded.manifest.recipe).data
        # what has to be fetched is not at hand
        return (
            () if section.hub else load_examples(section, loaded.task.name, section.train).examples
        )
    except AdapterHubError as error:
        logger.info("the training rows are not there: %s", error)
        return ()
