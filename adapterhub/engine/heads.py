"""Heads of adapters, which map hidden states to labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch.nn import functional as F

from adapterhub.backbones.heads import HEAD_NAMES
from adapterhub.errors import EngineError, StrictLoadError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.tasks.base import Task

# peft stores a head below "base_model.model" beside LoRA, and below "base_model" beside a prefix
_HEAD_KEY = re.compile(
    rf"base_model\.(?:model\.)?(?P<module>{'|'.join(HEAD_NAMES)})\.(?P<part>weight|bias)"
)
_POOLER_KEY = re.compile(r"base_model\.(?:model\.)?\w+\.pooler\.dense\.(?P<part>weight|bias)")


#: Read once per sequence, once per word, or at every token where an answer may start or end.
LabelingKind = Literal["sequence", "token", "span"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearHead:
    """A linear layer over hidden states, in float32.

    Args:
        kind: Positions that the head reads.
        labels: Labels in the order of the outputs.
        weight: Weight.
        bias: Bias, if the architecture's head has one.
        pooler: Weight and bias of the layer before the head, if the adapter replaces the
            encoder's.
    """

    kind: LabelingKind
    labels: tuple[str, ...]
    #: [num_classes, hidden_size]
    weight: Tensor
    #: [num_classes]
    bias: Tensor | None
    #: [hidden_size, hidden_size] and [hidden_size]
    pooler: tuple[Tensor, Tensor] | None

    def logits(self, hidden: Tensor) -> Tensor:
        """Map ``[n, hidden_size]`` to float32 ``[n, num_classes]``."""
        return F.linear(hidden.float(), self.weight, self.bias)

    def pooled(self, hidden: Tensor, pooler: nn.Module) -> Tensor:
        """Apply the adapter's own pooler to first tokens ``[n, hidden_size]``."""
        if self.pooler is None:
            raise EngineError("the adapter has no pooler of its own")
        weight, bias = self.pooler
        activation: nn.Module = pooler.get_submodule("activation")
        pooled: Tensor = activation(F.linear(hidden.float(), weight, bias))
        return pooled


@dataclass(frozen=True, slots=True, eq=False)
class TaskHead:
    """Task and head of an adapter that labels."""

    task: Task
    head: LinearHead

    @property
    def nbytes(self) -> int:
        """Bytes of the head."""
        tensors = [self.head.weight, self.head.bias, *(self.head.pooler or ())]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def head_keys(weights: AdapterWeights) -> dict[str, str]:
    """Return the keys of the tensors of an adapter's head, if any, by part (``head.weight``)."""
    return {
        f"{owner}.{match['part']}": key
        for key in weights.tensors
        for pattern, owner in ((_HEAD_KEY, "head"), (_POOLER_KEY, "pooler"))
        if (match := pattern.fullmatch(key))
    }


def read_head(
    weights: AdapterWeights,
    task: Task,
    *,
    kind: BackboneKind,
    device: torch.device,
    width: int,
    name: str,
) -> LinearHead | None:
    """Return the head of an adapter, if its task has one.

    Args:
        weights: Weights of the adapter.
        task: Task that the adapter was trained for.
        kind: Kind of the backbone.
        device: Device of the backbone.
        width: Number of features: the hidden size, or the features of an image.
        name: Name of the adapter, for error messages.
    """
    if task.head == "causal_lm":
        return None
    tensors = {part: weights.tensors[key] for part, key in head_keys(weights).items()}
    classes, pooled = len(task.labels), any(part.startswith("pooler") for part in tensors)
    wanted: dict[str, tuple[int, ...]] = {"head.weight": (classes, width)}
    # in transformers, the sequence head of a decoder has no bias
    if kind != "decoder" or task.head != "sequence":
        wanted["head.bias"] = (classes,)
    if pooled:
        wanted |= {"pooler.weight": (width, width), "pooler.bias": (width,)}
    shapes = {part: tuple(tensor.shape) for part, tensor in tensors.items()}
    if shapes != wanted:
        missing, unexpected = wanted.items() - shapes.items(), shapes.items() - wanted.items()
        raise StrictLoadError(
            name,
            [f"{part} of shape {list(shape)}" for part, shape in missing],
            [f"{part} of shape {list(shape)}" for part, shape in unexpected],
        )
    ready = {part: tensor.float().to(device) for part, tensor in tensors.items()}
    pooler = (ready["pooler.weight"], ready["pooler.bias"]) if pooled else None
    # an image is read once, like a sequence
    read: LabelingKind = "sequence" if task.head == "image" else task.head
    return LinearHead(read, task.labels, ready["head.weight"], ready.get("head.bias"), pooler)
