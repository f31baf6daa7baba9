"""Train one adapter from a recipe: data, model, loop, artifact, result."""

from __future__ import annotations

import json
import shutil
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from accelerate.utils import set_seed

from adapterhub.backbones.architecture import has_transcripts
from adapterhub.backbones.task_model import build_task_model
from adapterhub.data.batching import padding_share, random_batches
from adapterhub.data.splits import fingerprint
from adapterhub.training.batch_schedule import DEFAULT_BATCH_SIZE, BatchSchedule
from adapterhub.training.checkpoint import drop_checkpoint
from adapterhub.training.energy import EnergyMeter
from adapterhub.training.evaluate import calibrate_recipe, score_encoded
from adapterhub.training.loop import TrainingLoop
from adapterhub.training.prepare import (
    encode_split,
    label_log_odds,
    prepare_data,
    with_segmentation,
    with_vocabulary,
)
from adapterhub.training.progress import JsonLinesReporter, Reporters
from adapterhub.training.result import (
    TrainingEvidence,
    build_result,
    read_finished,
    write_finished,
)
from adapterhub.training.run_folder import (
    ARTIFACT_NAME,
    LOG_NAME,
    check_contents,
    check_folder,
    disk_errors,
    lock_folder,
)
from adapterhub.training.save import save_adapter
from adapterhub.training.setup import (
    build_recipe_task,
    keep_freed_memory,
    open_accelerator,
    recipe_backbone,
    recipe_folder,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.tasks.base import Task
    from adapterhub.training.loop import LoopResult
    from adapterhub.training.prepare import EncodedSplit, PreparedData
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.result import TrainResult


@dataclass(frozen=True, slots=True, eq=False)
class WarmStart:
    """An adapter to continue training from.

    Args:
        digest: Digest of the adapter.
        tensors: Weights of adapter and head under peft's names.
        data: Splits to train on instead of the recipe's, with the adapter's labels in the
            adapter's order.
    """

    digest: str
    tensors: Mapping[str, Tensor]
    data: PreparedData


#: A function that takes a recipe and the options of ``train``, such as one that adds a report.
TrainFunction: TypeAlias = "Callable[..., TrainResult]"


def train(
    recipe: Recipe,
    *,
    output: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    backbone: Backbone | None = None,
    device: str | None = None,
    cache: Path | None = None,
    data: PreparedData | None = None,
    start: WarmStart | None = None,
    measure_energy: bool = False,
    on_train_end: Callable[[TrainResult, TaskModel], TrainResult] | None = None,
) -> TrainResult:
    """Train an adapter, write its artifact and return the result with its evidence.

    Args:
        recipe: Recipe that defines the run.
        output: Run folder; ``runs/NAME`` where not given.
        resume: Whether to continue from the folder's checkpoint, if there is one, and to return
            the recorded result where this same run has finished there.
        reporter: Receiver of progress events, beside the run's own log file.
        backbone: Loaded backbone to use; must be the one that the recipe names.
        device: Device; the first GPU where there is one, else the CPU.
        cache: Root of the backbone cache.
        data: Data of the recipe, where it is read already.
        start: Adapter and data to continue from; ``None`` trains a fresh adapter on the
            recipe's data.
        measure_energy: Whether to estimate the energy of the training loop.
        on_train_end: Function called in the main process with the result and the model while the
            adapter is still on the backbone; it may close the model, and its return value becomes
            the result.

    Raises:
        RecipeError: naming the key at fault, before any weight is loaded.
        DataError: naming file and example, before any weight is loaded.
        TrainingInterrupted: after Ctrl-C or SIGTERM; call again with ``resume``.
    """
    folder = output or Path("runs") / recipe.name
    accelerator, place = open_accelerator(backbone, device)
    is_main = accelerator.is_main_process
    check_folder(folder, resume=resume)
    data = start.data if start else data or prepare_data(recipe)
    with lock_folder(folder), disk_errors(folder):
        check_contents(folder, resume=resume)
        run_digest = _run_digest(recipe, data, start)
        if resume and (finished := read_finished(folder, run_digest)):
            return _already_finished(finished, reporter, is_main=is_main)

        recipe, segmentation = with_segmentation(recipe, data)
        writes_tokens = has_transcripts(recipe_folder(recipe, backbone, cache))
        recipe, vocabulary = with_vocabulary(recipe, data, writes_tokens=writes_tokens)
        task = build_recipe_task(recipe, data, backbone, cache)
        encoded = {name: encode_split(task, data, name) for name in data.splits}

        keep_freed_memory()
        backbone = recipe_backbone(recipe, place, loaded=backbone, cache=cache)
        set_seed(recipe.train.seed)
        with (
            closing(_build_model(recipe, data, task, backbone, start)) as model,
            _open_log(folder, reporter, append=resume, is_main=is_main) as log,
        ):
            for message in filter(None, (segmentation, vocabulary)):
                log.on_message(message)
            _announce(log, recipe, data, encoded["train"], packed=model.is_packed)
            validation = encoded["validation"]
            loop = TrainingLoop(
                recipe=recipe,
                run_digest=run_digest,
                model=model,
                task=task,
                examples=encoded["train"].encoded,
                evaluate=lambda: score_encoded(
                    model, task, validation.examples, validation.encoded
                ),
                accelerator=accelerator,
                reporter=log,
                folder=folder,
            )
            with EnergyMeter(enabled=measure_energy and is_main) as meter:
                outcome = loop.run(resume=resume)
            recipe = calibrate_recipe(recipe, task, outcome.after, log)
            evidence = TrainingEvidence(
                recipe, data, task, outcome.before, outcome.after, meter.energy
            )
            continues = start is not None
            digest = (
                _write_artifact(folder, evidence, model, outcome, continues=continues)
                if is_main
                else ""
            )
            result = build_result(folder, digest, model, outcome, evidence)
            if is_main:
                write_finished(result, run_digest)
                drop_checkpoint(folder)
                result = on_train_end(result, model) if on_train_end else result
            accelerator.wait_for_everyone()
            return result


def _run_digest(recipe: Recipe, data: PreparedData, start: WarmStart | None) -> str:
    """Return a digest of recipe, training examples and parent: what a checkpoint belongs to."""
    document = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    parent = f"\n{start.digest}" if start else ""
    examples = fingerprint(data.splits["train"])
    return sha256(f"{document}\n{examples}{parent}".encode()).hexdigest()


def _already_finished(
    result: TrainResult, reporter: Reporter | None, *, is_main: bool
) -> TrainResult:
    if not is_main:
        return replace(result, digest="")
    # left behind where the process was killed between the record and this step
    drop_checkpoint(result.folder)
    if reporter:
        reporter.on_message(f"{result.folder}: trained before")
    return result


@contextmanager
def _open_log(
    folder: Path, reporter: Reporter | None, *, append: bool, is_main: bool
) -> Iterator[Reporter]:
    """Report to the log file of the run and to ``reporter``; silent in other processes."""
    if not is_main:
        yield Reporters([])
        return
    with closing(JsonLinesReporter(folder / LOG_NAME, append=append)) as log:
        yield Reporters([log, reporter] if reporter else [log])


def _build_model(
    recipe: Recipe, data: PreparedData, task: Task, backbone: Backbone, start: WarmStart | None
) -> TaskModel:
    """Return the backbone with a head and an adapter for the task, fresh or from ``start``."""
    model = build_task_model(
        backbone,
        head=task.head,
        task_type=task.peft_task_type,
        labels=task.labels,
        adapter=recipe.adapter.spec(),
        parts=recipe.train.parts,
    )
    if recipe.task.multi_label:
        model.set_head_bias(label_log_odds(data))
    if start:
        model.load_tensors(start.tensors, start.digest)
    return model


def _write_artifact(
    folder: Path,
    evidence: TrainingEvidence,
    model: TaskModel,
    outcome: LoopResult,
    *,
    continues: bool,
) -> str:
    # of this same run, where it was killed before it was recorded as finished
    shutil.rmtree(folder / ARTIFACT_NAME, ignore_errors=True)
    return save_adapter(
        folder / ARTIFACT_NAME,
        evidence=evidence,
        model=model,
        metrics_before=outcome.metrics_before,
        log=folder / LOG_NAME,
        continues=continues,
    )


def _announce(
    reporter: Reporter, recipe: Recipe, data: PreparedData, train: EncodedSplit, *, packed: bool
) -> None:
    """Report what was read, what was dropped, and what padding costs or would have cost."""
    counts = ", ".join(f"{len(examples)} {name}" for name, examples in data.splits.items())
    reporter.on_message(f"examples: {counts}")
    for note in data.notes:
        reporter.on_message(note)
    if data.dropped:
        reporter.on_message(f"dropped {data.dropped} duplicate examples before splitting")
    for name, count in data.leaked.items():
        if count:
            reporter.on_message(f"warning: {count} {name} examples repeat a training text")
    if train.skipped:
        reporter.on_message(
            f"left out {train.skipped} training examples with nothing to learn from"
        )
    cut = sum(example.truncated for example in train.encoded)
    if cut:
        reporter.on_message(
            f"warning: {cut} training answers are longer than task.max_length "
            f"({recipe.task.max_length} tokens) and are learned without their end"
        )
    if any(example.media is not None for example in train.encoded):
        return
    lengths = [len(example) for example in train.encoded]
    if packed:
        size = recipe.train.batch_size or DEFAULT_BATCH_SIZE
        batches = random_batches(len(lengths), size, seed=recipe.train.seed, epoch=0)
    else:
        steps = BatchSchedule(recipe.train, lengths).steps_of(0)
        batches = [batch for step in steps for batch in step]
    share = f"{padding_share(lengths, batches):.0%}"
    reporter.on_message(
        f"{sum(lengths)} training tokens, packed: 0 % padding (padded batches would waste {share})"
        if packed
        else f"{sum(lengths)} training tokens, in padded batches of which {share} is padding"
    )
