"""Audit a registered adapter beside its base model: bias of a labeller, harm of a generator."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapterhub.errors import AdapterHubError, DataError
from adapterhub.evaluation.bias_audit.audit import is_auditable, run_bias_audit
from adapterhub.evaluation.bootstrap import LEVEL
from adapterhub.training.prepare import load_examples
from adapterhub.training.recipe_file import parse_recipe
from adapterhub.workflows.local_files import with_local_files
from adapterhub.workflows.open_adapter import open_adapter
from adapterhub.workflows.stored_examples import examples_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from adapterhub.engine.loaded_adapter import LoadedAdapter
    from adapterhub.evaluation.bias_audit.results import BiasAuditResult
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version
    from adapterhub.tasks.fields import Example

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdapterAudit:
    """Bias audit of a registered adapter."""

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
    """Audit an adapter beside the backbone that it was trained on, within some seconds.

    Words are exchanged in the examples of ``path``, read as the adapter's recipe reads its data.
    The head that it is compared with is fitted on the training examples that its recipe names,
    where they are available locally, else on ``path``.

    Raises:
        NotFoundError: when there is no such version.
        DataError: when the examples can't be used, or the task can't be audited.
    """
    loaded, version = open_adapter(registry, ref, force=force, device=device)
    generates = loaded.task.generation is not None
    if not is_auditable(loaded.task):
        raise DataError(
            f"{loaded.task.name} can't be audited",
            place=str(version.ref),
            hint="The audit exchanges words in texts, and this task reads no texts",
        )
    examples: Sequence[Example] = ()
    if path is not None:
        if generates:
            raise DataError(
                f"an adapter for {loaded.task.name} is audited on built-in prompts",
                place="--data",
                hint="Leave the file out",
            )
        examples = examples_for(loaded.manifest, path, fields=fields, limit=limit).examples
    found = run_bias_audit(
        loaded,
        loaded.backbone.tokenizer,
        examples=examples,
        training=() if generates else _training_examples(loaded, version) or examples,
        seconds=seconds,
        level=level,
    )
    if found is None or not found.metrics:
        raise DataError(
            "no word in it can be exchanged" if path else "needs examples to be audited on",
            place=str(path or version.ref),
            hint="Pass English examples that mention people with --data FILE; docs/bias-audit.md "
            "lists the words that are exchanged",
        )
    return AdapterAudit(str(version.ref), loaded.task.name, found)


def _training_examples(loaded: LoadedAdapter, version: Version) -> Sequence[Example]:
    """Return the examples that the adapter's recipe names; none where they are not available."""
    if "recipe" in loaded.manifest.unknown:
        return ()
    try:
        section = parse_recipe(with_local_files(dict(loaded.manifest.recipe), version)).data
        if section.hub:
            # not downloaded just for the audit
            return ()
        return load_examples(section, loaded.task.name, section.train).examples
    except AdapterHubError as error:
        logger.info("the training examples are not available: %s", error)
        return ()
