"""Greedy generation with a training model, with its adapter or without."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor, nn

    from adapterhub.backbones.task_model import TaskModel


def generate_ids(
    model: TaskModel,
    prompts: Sequence[list[int]],
    limit: int,
    *,
    stop_ids: Iterable[int],
    with_adapter: bool,
) -> list[list[int]]:
    """Return the generated token ids of each prompt, up to its stop token.

    Args:
        model: Active model of a causal-LM task; without adapter, called in ``disable_adapter``.
    """
    tokenizer = model.backbone.tokenizer
    batch = tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
    batch = batch.to(model.backbone.device)
    generator = model.peft_model if with_adapter else model.head_model
    with torch.no_grad(), _contiguous_input(model.head_model.get_output_embeddings()):
        output = generator.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=list(stop_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
    return [ids.tolist() for ids in output[:, batch["input_ids"].shape[1] :]]


@contextmanager
def _contiguous_input(layer: nn.Module) -> Iterator[None]:
    """Make the input of a linear layer contiguous inside the block.

    transformers keeps the last state of each sequence of a prompt as a view. The product of such a
    view in three dimensions copies the layer's weight once per sequence, which is gigabytes for a
    vocabulary.
    """

    def make_contiguous(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    handle = layer.register_forward_pre_hook(make_contiguous)
    try:
        yield
    finally:
        handle.remove()
