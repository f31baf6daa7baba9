"""Heads of adapters: what maps a row's hidden states to its labels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch.nn import functional as F

from adapterhub.backbones.heads import HEAD_NAMES
from adapterhub.errors import EngineError, StrictLoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor, nn

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.backbones.catalog import BackboneKind
    from adapterhub.tasks.base import Task

# peft stores a head below "base_model.model" beside LoRA, and below "base_model" beside a prefix
_HEAD_KEY = re.compile(
    rf"base_model\.(?:model\.)?(?P<module>{'|'.join(HEAD_NAMES)})\.(?P<part>weight|bias)"
)
_POOLER_KEY = re.compile(r"base_model\.(?:model\.)?\w+\.pooler\.dense\.(?P<part>weight|bias)")


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear layer over hidden states, in float32.

    Args:
        kind: read once a row, once a word, or at every token of an answer's context.
        labels: in the order of its outputs.
        weight: ``[classes, hidden]``.
        bias: ``[classes]``, where the architecture's head has one.
        pooler: weight ``[hidden, hidden]`` and bias ``[hidden]`` of the layer before it, where
            the adapter has its own in place of the encoder's.
    """

    kind: Literal["sequence", "token", "span"]
    labels: tuple[str, ...]
    weight: Tensor
    bias: Tensor | None
    pooler: tuple[Tensor, Tensor] | None

    def logits(self, hidden: Tensor) -> Tensor:
        """Map ``[n, hidden]`` to ``[n, classes]`` in float32."""
        return F.linear(hidden.float(), self.weight, self.bias)

    def pooled(self, hidden: Tensor, pooler: nn.Module) -> Tensor:
        """Return what its own pooler makes of first tokens ``[n, hidden]``.

        Args:
            hidden: of the body.
            pooler: the encoder's, whose activation it has too.
        """
        if self.pooler is None:
            raise EngineError("the adapter has no pooler of its own")
        weight, bias = self.pooler
        activation: nn.Module = pooler.get_submodule("activation")
        pooled: Tensor = activation(F.linear(hidden.float(), weight, bias))
        return pooled


@dataclass(frozen=True, slots=True, eq=False)
class TaskHead:
    """How an adapter labels texts.

    Args:
        task: that it was trained for: cuts texts into rows, and names what the head finds.
        head: reads their hidden states.
    """

    task: Task
    head: Head

    @property
    def nbytes(self) -> int:
        """Bytes of the head."""
        tensors = [self.head.weight, self.head.bias, *(self.head.pooler or ())]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)


@dataclass(frozen=True, slots=True, eq=False)
class HeadTensors:
    """The tensors of a head among those of an adapter.

    Args:
        linear: ``weight`` and maybe ``bias``.
        pooler: the same of the layer before it, or empty.
        keys: of all of them.
    """

    linear: Mapping[str, Tensor]
    pooler: Mapping[str, Tensor]
    keys: frozenset[str]


def head_tensors(weights: AdapterWeights) -> HeadTensors:
    """Return the tensors of an adapter's head; empty where it has none."""
    linear: dict[str, Tensor] = {}
    pooler: dict[str, Tensor] = {}
    keys: set[str] = set()
    for key, tensor in weights.tensors.items():
        for pattern, found in ((_HEAD_KEY, linear), (_POOLER_KEY, pooler)):
            if match := pattern.fullmatch(key):
                found[match["part"]] = tensor
                keys.add(key)
    return HeadTensors(linear, pooler, frozenset(keys))


def read_head(
    weights: AdapterWeights, task: Task, backbone: Backbone, *, width: int, name: str
) -> tuple[TaskHead | None, frozenset[str]]:
    """Return how an adapter labels, where it does, and the keys of its head's tensors.

    Args:
        weights: of the adapter.
        task: that it was trained for.
        backbone: that it was trained on.
        width: of what heads read.
        name: of the adapter, for messages.

    Raises:
        StrictLoadError: when the head is not whole.
    """
    if task.head == "causal_lm":
        return None, frozenset()
    found = head_tensors(weights)
    head = make_head(
        found,
        task,
        kind=backbone.kind,
        width=width,
        device=backbone.device,
        name=name,
    )
    return TaskHead(task, head), found.keys


def make_head(
    found: HeadTensors,
    task: Task,
    *,
    kind: BackboneKind,
    width: int,
    device: torch.device,
    name: str,
) -> Head:
    """Return the head of an adapter that labels.

    Args:
        found: its tensors.
        task: that it was trained for.
        kind: of the backbone.
        width: of hidden states, or of the features of a picture.
        device: of the backbone.
        name: of the adapter, for messages.

    Raises:
        EngineError: when the task has no head of its own.
        StrictLoadError: when a tensor is missing, or of another shape.
    """
    read: Literal["sequence", "token", "span"]
    match task.head:
        case "sequence" | "token" | "span":
            read = task.head
        case "image":
            # a picture is a row, read once
            read = "sequence"
        case _:
            raise EngineError(f"{task.name} has no head of its own", place=name)
    classes = len(task.labels)
    wanted: dict[str, tuple[int, ...]] = {"head.weight": (classes, width)}
    # transformers: the head of a decoder that is read once a row has no bias
    if kind != "decoder" or task.head != "sequence":
        wanted["head.bias"] = (classes,)
    if found.pooler:
        wanted |= {"pooler.weight": (width, width), "pooler.bias": (width,)}
    tensors = {f"head.{part}": tensor for part, tensor in found.linear.items()}
    tensors |= {f"pooler.{part}": tensor for part, tensor in found.pooler.items()}
    shapes = {part: tuple(tensor.shape) for part, tensor in tensors.items()}
    if shapes != wanted:
        raise StrictLoadError(
            name,
            [f"{part} of shape {list(shape)}" for part, shape in wanted.items() - shapes.items()],
            [f"{part} of shape {list(shape)}" for part, shape in shapes.items() - wanted.items()],
        )
    ready = {part: tensor.float().to(device) for part, tensor in tensors.items()}
    pooler = (ready["pooler.weight"], ready["pooler.bias"]) if found.pooler else None
    return Head(read, task.labels, ready["head.weight"], ready.get("head.bias"), pooler)
