"""The training loop: steps, evaluations, checkpoints, early stopping."""

from __future__ import annotations

import math
import signal
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.data.packing import pack
from adapterhub.errors import NonFiniteLossError, TrainingError, TrainingInterrupted, did_you_mean
from adapterhub.training.batch_schedule import BatchSchedule
from adapterhub.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from adapterhub.training.optimizer import build_optimizer, build_schedule, seek
from adapterhub.training.progress import EvaluationEvent, StepEvent
from adapterhub.training.run_folder import checkpoint_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import FrameType

    from accelerate import Accelerator
    from torch import Tensor, nn

    from adapterhub.backbones.task_model import TaskModel
    from adapterhub.data.packing import EncodedExample, PackedBatch
    from adapterhub.tasks.base import Task
    from adapterhub.training.evaluate import Predictions
    from adapterhub.training.progress import Reporter
    from adapterhub.training.recipe import Recipe, TrainSection


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, eq=False)
class LoopResult:
    """Outcome of a training loop; predictions before it are ``None`` in a resumed run."""

    metrics_before: Mapping[str, float]
    before: Predictions | None
    after: Predictions
    state: TrainingState
    total_steps: int
    stopped_early: bool


class TrainingLoop:
    """Trains one model once; call ``run``."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        run_digest: str,
        model: TaskModel,
        task: Task,
        examples: Sequence[EncodedExample],
        evaluate: Callable[[], Predictions],
        accelerator: Accelerator,
        reporter: Reporter,
        folder: Path,
    ) -> None:
        """Prepare a run.

        A checkpoint of another ``run_digest`` is refused; ``evaluate`` scores validation
        examples.
        """
        self.section = recipe.train
        self.clip_norm = recipe.optimizer.clip_norm
        self.run_digest = run_digest
        self.task = task
        self.examples = examples
        self.evaluate = evaluate
        self.accelerator = accelerator
        self.reporter = reporter
        self.folder = folder
        self.device = model.backbone.device
        self.parameters: list[tuple[str, nn.Parameter]] = list(model.trainable())
        self.batches = BatchSchedule(
            recipe.train,
            [len(example) for example in examples],
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        self.total_steps = self.batches.total_steps
        self.plain_optimizer = build_optimizer(self.parameters, recipe.optimizer)
        self.model, self.optimizer = accelerator.prepare(model, self.plain_optimizer)
        # not prepared by accelerate: it advances once an optimizer step, whatever the processes
        self.schedule = build_schedule(self.plain_optimizer, recipe.schedule, self.total_steps)
        self.state = TrainingState()
        self.best: dict[str, Tensor] | None = None
        self.watched, self.greater_is_better = watched_metric(recipe.train, task.default_metric)

    def run(self, *, resume: bool) -> LoopResult:
        """Train to the last step, or until patience runs out.

        Continues from the folder's checkpoint with ``resume``, if there is one.

        Raises:
            NonFiniteLossError: naming the step and its examples.
            TrainingInterrupted: after Ctrl-C or SIGTERM, with a checkpoint left behind.
        """
        before = None
        if resume and checkpoint_folder(self.folder):
            self._resume()
        else:
            before = self._evaluate()
        self.model.train()
        # the checkpoint may be of the evaluation that ended the run
        stopped = self._out_of_patience()
        with InterruptFlag() as interrupt:
            for batches in () if stopped else self.batches.steps_from(self.state):
                self._step(batches)
                evaluated = self._evaluation_is_due()
                if evaluated:
                    self._evaluate()
                    stopped = self._out_of_patience()
                if self._checkpoint_is_due(evaluated=evaluated, stopped=stopped):
                    self._save()
                # one process may receive a signal a step before the others
                if self._over_processes(interrupt.is_set):
                    self._save()
                    raise TrainingInterrupted(self.state.step, self.folder)
                if stopped:
                    break
        return self._finish(before, stopped)

    def _step(self, batches: Sequence[Sequence[int]]) -> None:
        """Make one optimizer step, accumulating the gradients of its batches."""
        start = time.perf_counter()
        packed = [pack([self.examples[i] for i in indices]) for indices in batches]
        weight = self._over_processes(sum(self.task.weight(batch) for batch in packed))
        total_loss = 0.0
        for batch in packed:
            loss = self.model(batch.to(self.device), self.task.loss)
            total_loss += self._finite(loss, batch)
            # processes average their gradients; the sum over all targets is needed
            self.accelerator.backward(loss * (self.accelerator.num_processes / weight))
        if self.clip_norm:
            self.accelerator.clip_grad_norm_([p for _, p in self.parameters], self.clip_norm)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        state = self.state
        state.step += 1
        state.tokens += round(self._over_processes(sum(batch.tokens for batch in packed)))
        state.seconds += time.perf_counter() - start
        self._report_step(self._over_processes(total_loss) / weight)

    def _finite(self, loss: Tensor, batch: PackedBatch) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NonFiniteLossError(self.state.step + 1, batch.numbers)
        return value

    def _evaluate(self) -> Predictions:
        """Score the model, keep the best weights and report the metrics."""
        predictions = self.evaluate()
        metrics = dict(predictions.evaluation.metrics)
        value = metrics.get(self.watched)
        if value is None:
            raise TrainingError(
                f"the task has no metric {self.watched!r}",
                place="train.metric",
                hint=did_you_mean(self.watched, metrics),
            )
        state = self.state
        state.history.append({"step": state.step, **metrics})
        better = self._is_better(value)
        if better or self._ties_with_less_loss(value, metrics):
            state.best_value, state.best_step = value, state.step
            self.best = {n: p.detach().cpu().clone() for n, p in self.parameters}
        if better:
            state.stale = 0
        elif state.step:
            state.stale += 1
        self.reporter.on_evaluation(
            EvaluationEvent(state.step, metrics, self.watched, state.best_value)
        )
        return predictions

    def _is_better(self, value: float) -> bool:
        # the untrained model never counts as the best: keeping it would store nothing learned
        if self.state.step == 0 or math.isnan(value):
            return False
        best = self.state.best_value
        return best is None or (value > best if self.greater_is_better else value < best)

    def _ties_with_less_loss(self, value: float, metrics: Mapping[str, float]) -> bool:
        # on few validation examples many evaluations tie; for patience a tie is not an improvement
        state = self.state
        if value != state.best_value:
            return False
        best = next(r for r in state.history if r["step"] == state.best_step)
        return metrics.get("loss", math.inf) < best.get("loss", math.inf)

    def _out_of_patience(self) -> bool:
        patience = self.section.patience
        return patience is not None and self.state.stale >= patience

    def _evaluation_is_due(self) -> bool:
        every, step = self.section.evaluate_every, self.state.step
        if step == self.total_steps:
            return True
        return self.batches.ends_epoch(self.state) if every is None else step % every == 0

    def _checkpoint_is_due(self, *, evaluated: bool, stopped: bool) -> bool:
        every, step = self.section.checkpoint_every, self.state.step
        # always at the end: a kill while the artifact is written then costs no step
        if stopped or step == self.total_steps:
            return True
        return evaluated if every is None else step % every == 0

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        save_checkpoint(
            self.folder,
            run_digest=self.run_digest,
            state=self.state,
            parameters=dict(self.parameters),
            best=self.best,
            optimizer=self.plain_optimizer,
        )

    def _resume(self) -> None:
        self.state, self.best = load_checkpoint(
            self.folder,
            run_digest=self.run_digest,
            parameters=dict(self.parameters),
            optimizer=self.plain_optimizer,
        )
        seek(self.schedule, self.state.step)
        self.reporter.on_message(f"resumed after step {self.state.step}")

    def _finish(self, before: Predictions | None, stopped: bool) -> LoopResult:
        """Restore the best weights where the recipe keeps them, and score the final weights."""
        if stopped:
            self.reporter.on_message(
                f"stopped early at step {self.state.step}: no better {self.watched} "
                f"in {self.state.stale} evaluations"
            )
        if self.section.keep_best and self.best is not None:
            with torch.no_grad():
                for name, parameter in self.parameters:
                    parameter.copy_(self.best[name])
        first = self.state.history[0]
        return LoopResult(
            metrics_before={name: value for name, value in first.items() if name != "step"},
            before=before,
            after=self.evaluate(),
            state=self.state,
            total_steps=self.total_steps,
            stopped_early=stopped,
        )

    def _report_step(self, loss: float) -> None:
        state, total = self.state, self.total_steps
        self.reporter.on_step(
            StepEvent(
                step=state.step,
                total=total,
                loss=loss,
                learning_rate=self.schedule.get_last_lr()[0],
                tokens_per_second=state.tokens / max(state.seconds, 1e-9),
                eta_seconds=state.seconds / state.step * (total - state.step),
            )
        )

    def _over_processes(self, value: float) -> float:
        """Return the sum of a number over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        return float(self.accelerator.reduce(tensor, reduction="sum"))


class InterruptFlag:
    """While entered, Ctrl-C or SIGTERM sets ``is_set``; a second signal has its usual effect."""

    def __init__(self) -> None:
        self.is_set = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> InterruptFlag:
        """Handle the signals, where this is the main thread; other threads can not."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {each: signal.signal(each, self._set) for each in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        self._restore()

    def _set(self, number: int, frame: FrameType | None) -> None:
        self.is_set = True
        self._restore()

    def _restore(self) -> None:
        for each, handler in self._previous.items():
            signal.signal(each, handler)
        self._previous = {}


def watched_metric(section: TrainSection, default: tuple[str, bool]) -> tuple[str, bool]:
    """Return the metric that selects the best weights, and whether a larger value is better."""
    name = section.metric or default[0]
    greater = section.greater_is_better
    return name, larger_is_better(name, default) if greater is None else greater


def larger_is_better(name: str, default: tuple[str, bool] = ("", True)) -> bool:
    """Return whether a larger value of a metric is better; see ``watched_metric``."""
    return default[1] if name == default[0] else name not in ("loss", "perplexity")
