"""From a recipe to an artifact folder: the one call behind ``adapterhub train``."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import set_seed

from adapterhub.backbones.backbone import choose_device, load_backbone, read_preprocessor
from adapterhub.backbones.quantize import default_compute_dtype
from adapterhub.backbones.skeleton import backbone_kind, check_adapter_fits
from adapterhub.backbones.sources import fetch_backbone
from adapterhub.backbones.task_model import build_task_model
from adapterhub.data.batching import padding_share, random_batches
from adapterhub.errors import DataError, TrainingError
from adapterhub.specs import QuantizationSpec
from adapterhub.tasks.base import TaskOptions
from adapterhub.tasks.table import build_task
from adapterhub.training.calibrate import fit_temperature
from adapterhub.training.checkpoint import checkpoint_folder, drop_checkpoint
from adapterhub.training.energy import EnergyMeter
from adapterhub.training.evaluate import Seen, score_encoded
from adapterhub.training.finished import FINISHED_NAME, read_finished, write_finished
from adapterhub.training.loop import DEFAULT_BATCH_SIZE, TrainingLoop
from adapterhub.training.memory import keep_freed_memory
from adapterhub.training.prepare import PreparedData, prepare_data
from adapterhub.training.prior import prior_log_odds
from adapterhub.training.progress import JsonLinesReporter, Reporter, Reporters
from adapterhub.training.result import LOG_NAME, TrainResult, result_of
from adapterhub.training.save import save_adapter
from adapterhub.workflows.run_report.of_run import report_on
from adapterhub.workflows.run_report.report import DEFAULT_REPORT, REPORT_NAME, ReportOptions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.data.dataset import Dataset
    from adapterhub.data.packing import EncodedExample
    from adapterhub.tasks.base import Task
    from adapterhub.training.recipe import Recipe
    from adapterhub.training.start import Start

logger = logging.getLogger(__name__)

ARTIFACT_NAME = "artifact"


def train(
    recipe: Recipe,
    *,
    output: Path | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    backbone: Backbone | None = None,
    device: str | None = None,
    cache: Path | None = None,
    report: ReportOptions | None = DEFAULT_REPORT,
    start: Start | None = None,
) -> TrainResult:
    """Train an adapter and write its artifact.

    Args:
        recipe: decides everything.
        output: folder of the run; ``runs/NAME`` where not given.
        resume: go on from the folder's checkpoint, if there is one; where this very run has
            ended there, return what it came to.
        reporter: hears of every step, beside the run's own log file.
        backbone: already loaded, instead of loading the recipe's; must be the same one.
        device: the first GPU where there is one, else the CPU.
        cache: root of the backbone cache.
        report: how thorough the report at the end is; none where ``None``.
        start: an adapter to go on from and the rows to do it with; a fresh one and the
            recipe's rows where ``None``.

    Returns:
        Where the artifact is, and what the run came to.

    Raises:
        RecipeError: naming the key at fault, before any weight is loaded.
        DataError: naming file and row, before any weight is loaded.
        TrainingInterrupted: after Ctrl-C or SIGTERM; call again with ``resume``.
    """
    folder = output or Path("runs") / recipe.name
    accelerator, place = _processes(backbone, device)
    _check_folder(folder, resume=resume)
    data = start.data if start else prepare_data(recipe)
    run = _digest(recipe, data, start)
    ended = _ended(folder, run, accelerator, reporter) if resume else None
    if ended is not None:
        return ended
    section = recipe.backbone
    path = (
        backbone.path
        if backbone
        else fetch_backbone(section.name, revision=section.revision, cache=cache)
    )
    check_adapter_fits(path, recipe.adapter.spec())
    task = _task(recipe, data, path)
    splits = {name: _windows(task, rows) for name, rows in data.splits.items()}
    examples = {name: _encode(task, rows, name) for name, rows in splits.items()}
    keep_freed_memory()
    backbone = _backbone(recipe, _quantization(recipe, place), backbone, place, cache)
    set_seed(recipe.train.seed)
    model = build_task_model(
        backbone,
        head=task.head,
        task_type=task.peft_task_type,
        labels=task.labels,
        adapter=recipe.adapter.spec(),
        parts=recipe.train.parts,
    )
    if recipe.task.multi_label:
        model.set_head_bias(prior_log_odds(data))
    if start:
        model.load_tensors(start.tensors, start.digest)
    log = None
    if accelerator.is_main_process:
        log = JsonLinesReporter(folder / LOG_NAME, append=resume)
    # other processes are silent
    reporters = Reporters([each for each in (log, reporter) if log and each])
    _announce(reporters, recipe, data, examples["train"])
    rows, scored = _scored(splits["validation"], examples["validation"])
    seen = Seen()
    loop = TrainingLoop(
        recipe=recipe,
        recipe_digest=run,
        model=model,
        task=task,
        examples=[example for example in examples["train"] if example is not None],
        evaluate=lambda: seen.note(score_encoded(model, task, rows, scored)),
        accelerator=accelerator,
        reporter=reporters,
        folder=folder,
    )
    try:
        with EnergyMeter(wanted=report is not None and accelerator.is_main_process) as meter:
            outcome = loop.run(resume=resume)
        recipe = fit_temperature(recipe, task, seen.last, reporters)
        digest = ""
        if accelerator.is_main_process:
            # of this same run, killed before it was recorded as ended
            shutil.rmtree(folder / ARTIFACT_NAME, ignore_errors=True)
            digest = save_adapter(
                folder / ARTIFACT_NAME,
                recipe=recipe,
                data=data,
                task=task,
                model=model,
                outcome=outcome,
                log=folder / LOG_NAME,
            )
        result = result_of(folder, folder / ARTIFACT_NAME, digest, model, outcome)
        if digest:
            write_finished(result, run)
            drop_checkpoint(folder)
        if report is not None and digest:
            result = report_on(
                result,
                recipe=recipe,
                data=data,
                task=task,
                model=model,
                before=None if loop.resumed else seen.first,
                after=seen.last,
                log=folder / LOG_NAME,
                options=report,
                energy=meter.energy,
            )
        accelerator.wait_for_everyone()
        return result
    finally:
        if log:
            log.close()
        model.close()


def open_backbone(
    recipe: Recipe, *, device: str | None = None, cache: Path | None = None
) -> Backbone:
    """Load the backbone that a recipe asks for, to train several adapters on it.

    Args:
        recipe: whose backbone.
        device: the first GPU where there is one, else the CPU.
        cache: root of the backbone cache.

    Raises:
        BackboneError: when it can't be found, fetched, checked or loaded.
    """
    place = choose_device(device)
    return _backbone(recipe, _quantization(recipe, place), None, place, cache)


def _processes(backbone: Backbone | None, device: str | None) -> tuple[Accelerator, torch.device]:
    """Return the processes of this run, and the device that this one trains on."""
    place = backbone.device if backbone else choose_device(device)
    # the backbone is loaded where it stays; accelerate has nothing to move
    accelerator = Accelerator(cpu=place.type == "cpu", device_placement=False)
    return accelerator, place if accelerator.num_processes == 1 else accelerator.device


def _check_folder(folder: Path, *, resume: bool) -> None:
    checkpoint = checkpoint_folder(folder)
    ended = (folder / FINISHED_NAME).is_file()
    if (folder / ARTIFACT_NAME).exists() and not (resume and (ended or checkpoint)):
        raise TrainingError(
            "already holds a finished run",
            place=str(folder),
            hint="Store it with --resume, choose another folder with --output, or remove this one",
        )
    if not resume and checkpoint:
        raise TrainingError(
            "holds the checkpoint of an unfinished run",
            place=str(folder),
            hint="Go on with --resume, or remove the folder",
        )


def _ended(
    folder: Path, run: str, accelerator: Accelerator, reporter: Reporter | None
) -> TrainResult | None:
    """Return what a run came to that has ended in this folder before."""
    result = read_finished(folder, folder / ARTIFACT_NAME, folder / REPORT_NAME, run)
    if result is None:
        return None
    if not accelerator.is_main_process:
        return replace(result, digest="")
    # killed while this was done
    drop_checkpoint(folder)
    Reporters([reporter] if reporter else []).on_message(f"{folder}: trained before")
    return result


def _quantization(recipe: Recipe, device: torch.device) -> QuantizationSpec:
    section = recipe.backbone
    dtype = section.compute_dtype
    return QuantizationSpec(
        section.quantization, default_compute_dtype(device) if dtype == "auto" else dtype
    )


def _backbone(
    recipe: Recipe,
    spec: QuantizationSpec,
    given: Backbone | None,
    device: torch.device,
    cache: Path | None,
) -> Backbone:
    if given is None:
        return load_backbone(
            recipe.backbone.name,
            spec,
            revision=recipe.backbone.revision,
            device=device,
            cache=cache,
        )
    if (given.name, given.quantization) != (recipe.backbone.name, spec):
        raise TrainingError(
            f"the recipe asks for {recipe.backbone.name} in {spec}, "
            f"the backbone given is {given.name} in {given.quantization}",
            place="backbone",
        )
    return given


def _task(recipe: Recipe, data: PreparedData, path: Path) -> Task:
    """Build the task from the backbone's folder, none of whose weights it needs."""
    return build_task(
        recipe.task.name,
        read_preprocessor(path),
        backbone_kind(path),
        list(data.label_counts),
        TaskOptions.of_section(recipe.task.model_dump()),
        data.label_counts,
    )


def _windows(task: Task, rows: Dataset) -> Dataset:
    """Return the rows, or their windows where the task reads all of them."""
    if not task.reads_windows:
        return rows
    cut: list[Mapping[str, Any]] = []
    origins: list[int] = []
    for index, row in enumerate(rows.examples):
        with _placed(rows, index, 1):
            windows = task.windows(row)
        cut += windows
        origins += [index] * len(windows)
    return replace(rows.select(origins), examples=tuple(dict(window) for window in cut))


@contextmanager
def _placed(rows: Dataset, index: int, number: int) -> Iterator[None]:
    """Let errors name the file beside the row, which they know by ``number``."""
    try:
        yield
    except DataError as error:
        field = error.place.removeprefix(f"example {number}")
        place = f"{rows.place(index)}{field}"
        raise DataError(error.problem, place=place, hint=error.hint) from None


def _encode(task: Task, rows: Dataset, split: str) -> list[EncodedExample | None]:
    encoded = []
    for index, (number, row) in enumerate(zip(rows.numbers, rows.examples, strict=True)):
        with _placed(rows, index, number):
            encoded.append(task.encode(row, number, train=split == "train"))
    if not any(encoded):
        raise DataError(
            f"no row of the {split} split has anything to learn from",
            place=rows.origin,
            hint="Raise task.max_length",
        )
    return encoded


def _scored(
    rows: Dataset, examples: Sequence[EncodedExample | None]
) -> tuple[list[Mapping[str, Any]], list[EncodedExample]]:
    """Return the rows that have an example, with their examples."""
    pairs = [(r, e) for r, e in zip(rows.examples, examples, strict=True) if e is not None]
    return [row for row, _ in pairs], [example for _, example in pairs]


def _announce(
    reporter: Reporter,
    recipe: Recipe,
    data: PreparedData,
    examples: Sequence[EncodedExample | None],
) -> None:
    """Say what was read, what was dropped, and what padding would have cost."""
    counts = ", ".join(f"{len(rows)} {name}" for name, rows in data.splits.items())
    reporter.on_message(f"rows: {counts}")
    if data.dropped:
        reporter.on_message(f"dropped {data.dropped} repeated rows before splitting")
    for name, count in data.leaked.items():
        if count:
            reporter.on_message(f"warning: {count} {name} rows repeat a training text")
    skipped = sum(example is None for example in examples)
    if skipped:
        reporter.on_message(f"left out {skipped} training rows with nothing to learn from")
    if any(example is not None and example.pixels is not None for example in examples):
        return
    lengths = [len(example) for example in examples if example is not None]
    size = recipe.train.batch_size or DEFAULT_BATCH_SIZE
    plain = random_batches(len(lengths), size, seed=recipe.train.seed, epoch=0)
    reporter.on_message(
        f"{sum(lengths)} training tokens, packed: 0 % padding "
        f"(padded batches would waste {padding_share(lengths, plain):.0%})"
    )


def _digest(recipe: Recipe, data: PreparedData, start: Start | None) -> str:
    """Return what a checkpoint must agree on: recipe, rows, and where it started."""
    from adapterhub.data.splits import fingerprint

    document = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    parent = f"\n{start.digest}" if start else ""
    rows = fingerprint(data.splits["train"])
    return sha256(f"{document}\n{rows}{parent}".encode()).hexdigest()
