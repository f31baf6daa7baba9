"""Greedy answers to prompts, with an adapter or by the bare backbone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    with torch.no_grad():
        output = generator.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=list(stop_ids),
            pad_token_id=tokenizer.pad_token_id,
        )
    return [ids.tolist() for ids in output[:, batch["input_ids"].shape[1] :]]
