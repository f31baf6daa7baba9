"""Greedy answers to prompts, with an adapter or by the bare backbone."""

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
    bare: bool,
) -> list[list[int]]:
    """Return the new token ids of each prompt, up to where it stops.

    Args:
        model: active, of a language model; entered in ``bare`` where ``bare`` is true.
        prompts: token ids, of any lengths.
        limit: tokens of an answer at most.
        stop_ids: tokens at which an answer ends.
        bare: without the adapter.
    """
    tokenizer = model.backbone.tokenizer
    batch = tokenizer.pad({"input_ids": list(prompts)}, padding_side="left", return_tensors="pt")
    batch = batch.to(model.backbone.device)
    generator = model.stock if bare else model.peft_model
    with torch.no_grad(), _contiguous(model.stock.get_output_embeddings()):
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
def _contiguous(layer: nn.Module) -> Iterator[None]:
    """Let a linear layer read its input as one block of memory while entered.

    Of a prompt transformers keeps the last state of each row, as a view. A product of such a
    view in three dimensions copies the layer's weight once for every row, which is gigabytes
    for a vocabulary.
    """

    def straightened(_layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return (inputs[0].contiguous(), *inputs[1:])

    handle = layer.register_forward_pre_hook(straightened)
    try:
        yield
    finally:
        handle.remove()
