"""Rows as the prompts that adapters for tasks by instruction were trained with."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from adapterhub.engine.session import task_of
from adapterhub.errors import RequestError
from adapterhub.tasks.instructed import Instructed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.hub.loader import AdapterLoader
    from adapterhub.server.models import Model
    from adapterhub.tasks.base import Task

#: Most adapters whose tasks are kept.
MAX_TASKS = 256


class TaskPrompts:
    """Knows the tasks of adapters. Its methods may read a disk, so they take a thread.

    Args:
        backbone: whose tokenizer and chat template write the prompts.
        loader: that fetches the adapters' manifests.
    """

    def __init__(self, backbone: Backbone, loader: AdapterLoader) -> None:
        # a tokenizer changes its settings while it works, and the backbone's is used by others
        self._backbone = replace(backbone, preprocessor=deepcopy(backbone.preprocessor))
        self._loader = loader
        self._lock = Lock()
        self._tasks: OrderedDict[str, Task] = OrderedDict()

    def task(self, model: Model) -> Instructed:
        """Return the task that all adapters of a model were trained for with one instruction.

        Raises:
            RequestError: when there is no such task.
            AdapterHubError: when an adapter can't be read.
        """
        tasks = [self._of(part.digest) for part in model.parts]
        found = [task for task in tasks if isinstance(task, Instructed)]
        if not found or len(found) < len(tasks):
            others = ", ".join(part.task or "another task" for part in model.parts)
            raise RequestError(
                f"is for {others or 'no task'}, which has no instruction of its own",
                place="model",
                hint="Use /v1/chat/completions, or the route of its task",
            )
        if len({(task.name, task.instruction) for task in found}) > 1:
            raise RequestError(
                "the adapters of the blend were trained with different instructions",
                place="model",
                hint="Use /v1/chat/completions, and write the instruction yourself",
            )
        return found[0]

    def prompt(self, task: Instructed, row: Mapping[str, Any]) -> Sequence[int]:
        """Return the tokens after which the answer to a row starts.

        Raises:
            DataError: naming the field, when the row can't be used.
        """
        with self._lock:
            return task.prompt_ids(task.question(row, 1))

    def _of(self, digest: str) -> Task:
        with self._lock:
            known = self._tasks.get(digest)
            if known is not None:
                self._tasks.move_to_end(digest)
                return known
        manifest = self._loader.fetch(digest).result().manifest
        with self._lock:
            task = self._tasks[digest] = task_of(manifest, self._backbone)
            if len(self._tasks) > MAX_TASKS:
                self._tasks.popitem(last=False)
            return task
