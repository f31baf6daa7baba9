"""The training loop: read it top to bottom."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from adapterhub.data.batching import plan_batches, shard
from adapterhub.data.packing import pack
from adapterhub.errors import NonFiniteLossError, TrainingError, TrainingInterrupted, did_you_mean
from adapterhub.training.checkpoint import (
    Progress,
    checkpoint_folder,
    load_checkpoint,
    save_checkpoint,
)
from adapterhub.training.interrupt import InterruptFlag
from adapterhub.training.optimizer import build_optimizer, build_schedule, seek
from adapterhub.training.progress import EvaluationEvent, StepEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from accelerate import Accelerator
    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Evaluation, Task
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe, TrainSection

#: Used where the recipe says neither rows nor tokens, neither epochs nor steps.
DEFAULT_BATCH_SIZE = 32
DEFAULT_EPOCHS = 3


@dataclass(frozen=True, slots=True)
class LoopResult:
    """What a run came to.

    Args:
        before: metrics of the untrained adapter.
        after: metrics of the weights that the run ended with.
        progress: the counters at the end.
        total_steps: optimizer steps planned.
        stopped_early: whether patience ran out.
    """

    before: Mapping[str, float]
    after: Evaluation
    progress: Progress
    total_steps: int
    stopped_early: bool


class TrainingLoop:
    """One run over one model; call ``run`` once."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        recipe_digest: str,
        model: TaskModel,
        task: Task,
        examples: Sequence[EncodedExample],
        evaluate: Callable[[], Evaluation],
        accelerator: Accelerator,
        reporter: Reporter,
        folder: Path,
    ) -> None:
        """Prepare a run.

        Args:
            recipe: decides everything.
            recipe_digest: ties checkpoints to the recipe.
            model: with fresh adapter and head.
            task: that encoded the examples.
            examples: to learn from.
            evaluate: scores the model on the validation rows.
            accelerator: device and processes.
            reporter: hears of every step.
            folder: for checkpoints.
        """
        self.section = recipe.train
        self.recipe_digest = recipe_digest
        self.task = task
        self.examples = examples
        self.evaluate = evaluate
        self.accelerator = accelerator
        self.reporter = reporter
        self.folder = folder
        self.device = model.backbone.device
        self.parameters: list[tuple[str, nn.Parameter]] = list(model.trainable())
        self.plans = _Plans(recipe, [len(e) for e in examples], accelerator)
        optimizer = build_optimizer(self.parameters, recipe.optimizer)
        self.clip_norm = recipe.optimizer.clip_norm
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        # the schedule is ours to step, once an optimizer step whatever the processes
        self.schedule: LRScheduler = build_schedule(
            optimizer, recipe.schedule, self.plans.total_steps
        )
        self.bare_optimizer: Optimizer = optimizer
        self.progress = Progress()
        #: whether this run went on from a checkpoint
        self.resumed = False
        self.best: dict[str, Tensor] | None = None
        self.watched, self.greater = watched_metric(recipe.train, task.default_metric)

    def run(self, *, resume: bool) -> LoopResult:
        """Train to the end, or until patience runs out.

        Args:
            resume: go on from the folder's checkpoint.

        Raises:
            NonFiniteLossError: naming step and rows.
            TrainingInterrupted: after Ctrl-C or SIGTERM, with a checkpoint left behind.
        """
        if resume and checkpoint_folder(self.folder):
            self._resume()
        else:
            self._evaluate()
        before = _metrics(self.progress.history[0])
        self.model.train()
        # a checkpoint may have been written by the evaluation that ended the run
        stopped = self._out_of_patience()
        steps = () if stopped else self.plans.steps_from(self.progress)
        with InterruptFlag() as interrupt:
            for batches in steps:
                self._step(batches)
                if self._is_due(self.section.evaluate_every, end_of_epoch=True):
                    self._evaluate()
                    stopped = self._out_of_patience()
                    ends = stopped or self.progress.step == self.plans.total_steps
                    self._save_if_due(evaluated=True, ends=ends)
                else:
                    self._save_if_due(evaluated=False)
                # one process may hear a signal a step before the others
                if self._over_processes(interrupt.asked):
                    self._save()
                    raise TrainingInterrupted(self.progress.step, self.folder)
                if stopped:
                    break
        return self._finish(before, stopped)

    def _step(self, batches: Sequence[Sequence[int]]) -> None:
        """Make one optimizer step from one batch or several."""
        began = time.perf_counter()
        packed = [pack([self.examples[i] for i in indices]) for indices in batches]
        weight = self._over_processes(sum(self.task.weight(batch) for batch in packed))
        total = 0.0
        for batch in packed:
            loss = self.model(batch.to(self.device), self.task.loss)
            total += self._finite(loss, batch)
            # processes average their gradients; the sum over all targets is wanted
            self.accelerator.backward(loss * (self.accelerator.num_processes / weight))
        if self.clip_norm:
            self.accelerator.clip_grad_norm_([p for _, p in self.parameters], self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        progress = self.progress
        progress.step += 1
        progress.tokens += round(self._over_processes(sum(batch.tokens for batch in packed)))
        progress.seconds += time.perf_counter() - began
        self._report_step(self._over_processes(total) / weight)

    def _finite(self, loss: Tensor, batch: PackedBatch) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(self.progress.step + 1, batch.numbers)
        return value

    def _evaluate(self) -> None:
        """Score the model, remember the best weights, tell the reporter."""
        metrics = dict(self.evaluate().metrics)
        value = metrics.get(self.watched)
        if value is None:
            raise TrainingError(
                f"the task has no metric {self.watched!r}",
                place="train.metric",
                hint=did_you_mean(self.watched, metrics),
            )
        progress = self.progress
        progress.history.append({"step": progress.step, **metrics})
        better = self._is_better(value)
        if better or self._ties_with_less_loss(value, metrics):
            progress.best_value, progress.best_step = value, progress.step
            self.best = {n: p.detach().cpu().clone() for n, p in self.parameters}
        if better:
            progress.stale = 0
        elif progress.step:
            progress.stale += 1
        best = value if progress.best_value is None else progress.best_value
        self.reporter.on_evaluation(EvaluationEvent(progress.step, metrics, self.watched, best))

    def _is_better(self, value: float) -> bool:
        # the untrained model never counts as the best: keeping it would store nothing learned
        if self.progress.step == 0 or math.isnan(value):
            return False
        best = self.progress.best_value
        return best is None or (value > best if self.greater else value < best)

    def _ties_with_less_loss(self, value: float, metrics: Mapping[str, float]) -> bool:
        # on few validation rows many evaluations tie; patience still counts them as no better
        progress = self.progress
        if value != progress.best_value:
            return False
        best = next(r for r in progress.history if r["step"] == progress.best_step)
        return metrics.get("loss", math.inf) < best.get("loss", math.inf)

    def _out_of_patience(self) -> bool:
        patience = self.section.patience
        return patience is not None and self.progress.stale >= patience

    def _is_due(self, every: int | None, *, end_of_epoch: bool) -> bool:
        step = self.progress.step
        if step == self.plans.total_steps:
            return True
        if every is not None:
            return step % every == 0
        return end_of_epoch and self.plans.ends_epoch(self.progress)

    def _save_if_due(self, *, evaluated: bool, ends: bool = False) -> None:
        every = self.section.checkpoint_every
        # the end always is: a kill while the artifact is made costs no step
        if ends or (evaluated if every is None else self.progress.step % every == 0):
            self._save()

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        save_checkpoint(
            self.folder,
            recipe_digest=self.recipe_digest,
            progress=self.progress,
            parameters=dict(self.parameters),
            best=self.best,
            optimizer=self.bare_optimizer,
        )

    def _resume(self) -> None:
        self.progress, self.best = load_checkpoint(
            self.folder,
            recipe_digest=self.recipe_digest,
            parameters=dict(self.parameters),
            optimizer=self.bare_optimizer,
        )
        seek(self.schedule, self.progress.step)
        self.resumed = True
        self.reporter.on_message(f"resumed after step {self.progress.step}")

    def _finish(self, before: Mapping[str, float], stopped: bool) -> LoopResult:
        if stopped:
            self.reporter.on_message(
                f"stopped early at step {self.progress.step}: no better {self.watched} "
                f"in {self.progress.stale} evaluations"
            )
        if self.section.keep_best and self.best is not None:
            with torch.no_grad():
                for name, parameter in self.parameters:
                    parameter.copy_(self.best[name])
        return LoopResult(
            before=before,
            after=self.evaluate(),
            progress=self.progress,
            total_steps=self.plans.total_steps,
            stopped_early=stopped,
        )

    def _report_step(self, loss: float) -> None:
        progress, total = self.progress, self.plans.total_steps
        self.reporter.on_step(
            StepEvent(
                step=progress.step,
                total=total,
                loss=loss,
                learning_rate=self.schedule.get_last_lr()[0],
                tokens_per_second=progress.tokens / max(progress.seconds, 1e-9),
                eta_seconds=progress.seconds / progress.step * (total - progress.step),
            )
        )

    def _over_processes(self, value: float) -> float:
        """Sum a number over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))


class _Plans:
    """Which rows make up which step, for every epoch, known before the first one."""

    def __init__(self, recipe: Recipe, lengths: Sequence[int], accelerator: Accelerator) -> None:
        section = recipe.train
        self._lengths = lengths
        self._section = section
        self._rank = accelerator.process_index
        self._world = accelerator.num_processes
        self._epoch_steps = len(self._epoch(0))
        epochs = section.epochs or DEFAULT_EPOCHS
        if section.steps:
            self.total_steps = section.steps
        elif section.batch_tokens:
            # how many batches a budget of tokens gives varies a little with the shuffle
            self.total_steps = sum(len(self._epoch(epoch)) for epoch in range(epochs))
        else:
            self.total_steps = epochs * self._epoch_steps

    def steps_from(self, progress: Progress) -> Iterator[list[list[int]]]:
        """Yield the batches of each step still to make, moving ``progress`` along."""
        while progress.step < self.total_steps:
            steps = self._epoch(progress.epoch)
            for batches in steps[progress.batch :]:
                progress.batch += 1
                self._epoch_steps = len(steps)
                last = progress.batch == len(steps)
                yield batches
                if last or progress.step >= self.total_steps:
                    break
            if progress.batch == len(steps):
                progress.epoch += 1
                progress.batch = 0

    def ends_epoch(self, progress: Progress) -> bool:
        """Tell whether the step just made was the last of its epoch."""
        return progress.batch == self._epoch_steps

    def _epoch(self, epoch: int) -> list[list[list[int]]]:
        section = self._section
        size = section.batch_size
        if size is None and section.batch_tokens is None:
            size = DEFAULT_BATCH_SIZE
        batches = plan_batches(
            self._lengths,
            batch_size=size,
            batch_tokens=section.batch_tokens,
            seed=section.seed,
            epoch=epoch,
            shuffle=True,
        )
        own = shard(batches, self._rank, self._world)
        each = section.gradient_accumulation
        return [own[start : start + each] for start in range(0, len(own), each)]


def watched_metric(section: TrainSection, default: tuple[str, bool]) -> tuple[str, bool]:
    """Return the metric that decides, and whether a larger value is better.

    Args:
        section: of the recipe.
        default: the task's own.
    """
    name = section.metric or default[0]
    if section.greater_is_better is not None:
        return name, section.greater_is_better
    return (name, default[1]) if name == default[0] else (name, name not in ("loss", "perplexity"))


def _metrics(record: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name != "step"}
