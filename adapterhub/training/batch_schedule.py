"""The batches of every optimizer step of a run, known before the first step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.data.batching import plan_batches, shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from adapterhub.training.checkpoint import TrainingState
    from adapterhub.training.recipe import TrainSection

#: Used where the recipe sets neither ``batch_size`` nor ``batch_tokens``.
DEFAULT_BATCH_SIZE = 32
#: Used where the recipe sets neither ``epochs`` nor ``steps``.
DEFAULT_EPOCHS = 3


class BatchSchedule:
    """Deterministic order of the batches of a run, sharded over processes.

    A step is a list of batches whose gradients are accumulated; a batch is a list of indices of
    examples.
    """

    def __init__(
        self,
        section: TrainSection,
        lengths: Sequence[int],
        *,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Plan a run over examples of the given lengths in tokens."""
        self._lengths = lengths
        self._section = section
        self._process = process
        self._num_processes = num_processes
        self._epoch_steps = len(self.steps_of(0))
        epochs = section.epochs or DEFAULT_EPOCHS
        if section.steps:
            self.total_steps = section.steps
        elif section.batch_tokens:
            # the number of batches that a token budget gives varies with the shuffle
            self.total_steps = sum(len(self.steps_of(epoch)) for epoch in range(epochs))
        else:
            self.total_steps = epochs * self._epoch_steps

    def steps_from(self, state: TrainingState) -> Iterator[list[list[int]]]:
        """Yield the batches of each remaining step, updating ``state.epoch`` and ``batch``."""
        while state.step < self.total_steps:
            steps = self.steps_of(state.epoch)
            for batches in steps[state.batch :]:
                state.batch += 1
                self._epoch_steps = len(steps)
                last = state.batch == len(steps)
                yield batches
                if last or state.step >= self.total_steps:
                    break
            if state.batch == len(steps):
                state.epoch += 1
                state.batch = 0

    def ends_epoch(self, state: TrainingState) -> bool:
        """Return whether the step just made was the last of its epoch."""
        return state.batch == self._epoch_steps

    def steps_of(self, epoch: int) -> list[list[list[int]]]:
        """Return the batches of each step of an epoch."""
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
        own = shard(batches, self._process, self._num_processes)
        each = section.gradient_accumulation
        return [own[start : start + each] for start in range(0, len(own), each)]
