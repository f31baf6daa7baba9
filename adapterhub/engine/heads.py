"""Heads of adapters: transformers' class for a task with the head modules of one adapter."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn import functional as F

from adapterhub.backbones.head_construction import build_head
from adapterhub.backbones.head_model import BaseOutput, HeadModel
from adapterhub.errors import StrictLoadError
from adapterhub.tasks.base import LANGUAGE_HEADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from adapterhub.adapters.weights import AdapterWeights
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.tasks.base import HeadKind, Task

#: Read once per sequence, once per word, at every token where an answer may start or end, or at
#: every frame of a recording.
LabelingKind = Literal["sequence", "token", "span", "transcript"]
#: How the heads that label are read: an image or a recording once, like a sequence.
LABELING_KINDS: Mapping[HeadKind, LabelingKind] = {
    "sequence": "sequence",
    "token": "token",
    "span": "span",
    "image": "sequence",
    "audio": "sequence",
    "ctc": "transcript",
}
#: What peft puts before the names of a class: beside a prompt or prefix, and beside layers.
_PREFIXES = ("base_model.model.", "base_model.")


class HeadTemplate:
    """A class for a task around the base model, from which the heads of adapters are made.

    Args:
        model: The class with head modules of random weights.
    """

    def __init__(self, model: HeadModel) -> None:
        self.model = model
        modules = {path: model.model.get_submodule(path) for path in model.head_modules}
        #: shapes of the tensors of a head by their names in the class
        self.shapes = {
            f"{path}.{name}": tuple(tensor.shape)
            for path, module in modules.items()
            for name, tensor in module.state_dict().items()
        }
        base = f"{model.base_name}."
        #: head modules inside the base model
        self.nested = tuple(path for path in modules if path.startswith(base))
        #: what a head reads that is no more than one linear layer
        self.linear_input = _linear_input(model)
        pools = model.base_name is not None and _has_pooler(model)
        #: whether heads read what the backbone's pooler makes of a token
        self.shares_pooler = (
            pools and model.kind == "sequence" and not self.nested and self.linear_input != "hidden"
        )

    def pool(self, hidden: Tensor) -> Tensor:
        """Apply the backbone's pooler to tokens ``[n, hidden_size]``."""
        pooled: Tensor = self.model.pooled(hidden.unsqueeze(1)).pooler_output
        return pooled

    def probe(self, head: AdapterHead) -> AdapterHead:
        """Return a head of random weights, of the kind of another."""
        generator = torch.Generator().manual_seed(0)
        tensors = {
            name: torch.randn(shape, generator=generator) * 0.2
            for name, shape in self.shapes.items()
        }
        return AdapterHead(head.kind, head.labels, self.load(tensors), self)

    def load(self, tensors: Mapping[str, Tensor]) -> HeadModel:
        """Return the class with its own head modules, float32, around the same base model."""
        own: dict[str, nn.Module] = {}
        for path in self.model.head_modules:
            module = copy.deepcopy(self.model.model.get_submodule(path))
            start = f"{path}."
            module.load_state_dict(
                {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
            )
            own[path] = module.requires_grad_(False).eval()
        return with_modules(self.model, own)


@dataclass(frozen=True, slots=True, eq=False)
class AdapterHead:
    """Head of an adapter.

    Args:
        kind: Positions that the head reads.
        labels: Labels in the order of the outputs.
        model: transformers' class around the shared base model.
        template: What heads of this kind and number of labels have in common.
    """

    kind: LabelingKind
    labels: tuple[str, ...]
    model: HeadModel
    template: HeadTemplate

    @property
    def nbytes(self) -> int:
        """Bytes of the head modules."""
        modules = [self.model.model.get_submodule(path) for path in self.model.head_modules]
        return sum(t.nbytes for module in modules for t in module.state_dict().values())

    def logits(self, hidden: Tensor, pooled: Tensor | None = None) -> Tensor:
        """Read selected hidden states, which the template must have been checked for.

        Args:
            hidden: ``[n, hidden_size]``.
            pooled: Output of the base model's pooler for them, where it has one.

        Returns:
            Float32 ``[n, num_classes]``.
        """
        source = self.template.linear_input
        if source is not None:
            (path,) = self.model.head_modules
            layer = self.model.model.get_submodule(path)
            states = hidden if source == "hidden" or pooled is None else pooled
            return F.linear(states.float(), layer.get_parameter("weight"), _bias(layer))
        return self._class_logits(hidden, pooled)

    def _class_logits(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        output = base_output(self.model, hidden.unsqueeze(1), pooled)
        logits = self.model.logits_of(output)
        return (logits if logits.dim() == 2 else logits[:, 0]).float()


@dataclass(frozen=True, slots=True, eq=False)
class TaskHead:
    """Task and head of an adapter that labels."""

    task: Task
    head: AdapterHead

    @property
    def nbytes(self) -> int:
        """Bytes of the head."""
        return self.head.nbytes


class HeadBuilder:
    """Builds the heads of adapters of one backbone; safe for use from several threads."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._templates: dict[tuple[HeadKind, int], HeadTemplate] = {}
        self._lock = Lock()

    def template(self, kind: HeadKind, num_labels: int) -> HeadTemplate:
        """Return what the heads of a kind with a number of labels have in common."""
        with self._lock:
            if (kind, num_labels) not in self._templates:
                labels = [str(index) for index in range(num_labels)]
                # the weights are placeholders, which must not change what is drawn elsewhere
                with torch.random.fork_rng(devices=[]):
                    model = build_head(self._backbone, kind, labels)
                self._templates[kind, num_labels] = HeadTemplate(model)
            return self._templates[kind, num_labels]

    def read(self, weights: AdapterWeights, task: Task, *, name: str) -> AdapterHead | None:
        """Return the head of an adapter, if its task has one.

        Args:
            weights: Weights of the adapter.
            task: Task that the adapter was trained for.
            name: Name of the adapter, for error messages.

        Raises:
            StrictLoadError: If tensors of the head are missing or have another shape.
        """
        kind = LABELING_KINDS.get(task.head)
        if kind is None:
            return None
        template = self.template(task.head, len(task.labels))
        found = {own: weights.tensors[key] for own, key in _keys(weights, template).items()}
        shapes = {own: tuple(tensor.shape) for own, tensor in found.items()}
        if shapes != template.shapes:
            missing = template.shapes.items() - shapes.items()
            unexpected = shapes.items() - template.shapes.items()
            raise StrictLoadError(
                name,
                [f"{part} of shape {list(shape)}" for part, shape in missing],
                [f"{part} of shape {list(shape)}" for part, shape in unexpected],
            )
        return AdapterHead(kind, task.labels, template.load(found), template)

    def base_name(self, task: Task) -> str | None:
        """Return the name of the base model in the class for a task; ``None`` if it is divided."""
        return self.template(task.head, len(task.labels)).model.base_name

    def keys(self, weights: AdapterWeights, task: Task) -> frozenset[str]:
        """Return the keys of the tensors of an adapter's head."""
        if task.head in LANGUAGE_HEADS:
            return frozenset()
        template = self.template(task.head, len(task.labels))
        return frozenset(_keys(weights, template).values())


def with_modules(model: HeadModel, modules: Mapping[str, nn.Module]) -> HeadModel:
    """Return a view of a class in which modules are replaced, by path; the rest is shared."""
    view = _view(model.model)
    for path, module in modules.items():
        *parents, name = path.split(".")
        place: Any = view
        for parent in parents:
            place._modules[parent] = _view(place._modules[parent])
            place = place._modules[parent]
        place._modules[name] = module
    found = copy.copy(model)
    found.model = view
    return found


def base_output(model: HeadModel, hidden: Tensor, pooled: Tensor | None) -> Any:
    """Return what the base model of a class returns for hidden states.

    Args:
        model: Class around the base model.
        hidden: ``[n, length, hidden_size]``.
        pooled: ``[n, hidden_size]``; computed by the base model's pooler, if it has one, where
            not given.
    """
    if pooled is None:
        return model.pooled(hidden)
    return BaseOutput(last_hidden_state=hidden, pooler_output=pooled)


def _view(module: Any) -> Any:
    view = copy.copy(module)
    # copy.copy shares the dictionary of children
    view._modules = dict(module._modules)
    return view


def _keys(weights: AdapterWeights, template: HeadTemplate) -> dict[str, str]:
    """Return the keys of the tensors of a head by their names in the class."""
    return {
        name: key
        for key in weights.tensors
        for prefix in _PREFIXES
        if (name := key.removeprefix(prefix)) in template.shapes and name != key
    }


def _linear_input(model: HeadModel) -> Literal["hidden", "pooled"] | None:
    """Return what a head that computes no more than one linear layer reads, else ``None``."""
    modules = [model.model.get_submodule(path) for path in model.head_modules]
    if model.base_name is None or len(modules) != 1 or not isinstance(modules[0], nn.Linear):
        return None
    weight, bias = modules[0].weight, modules[0].bias
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 3, 1, weight.shape[1], generator=generator).to(weight.device)
    hidden, pooled = states[0], states[1, :, 0]
    with torch.no_grad():
        try:
            logits = model.logits_of(base_output(model, hidden, pooled)).reshape(3, -1)
        except (RuntimeError, TypeError, AttributeError):
            return None
        choices: Iterable[tuple[Literal["hidden", "pooled"], Tensor]]
        choices = (("hidden", hidden[:, 0]), ("pooled", pooled))
        for name, read in choices:
            expected = F.linear(read, weight, bias)
            if logits.shape == expected.shape and torch.allclose(logits, expected, atol=1e-5):
                return name
    return None


def _has_pooler(model: HeadModel) -> bool:
    return isinstance(getattr(model.base_model, "pooler", None), nn.Module)


def _bias(layer: nn.Module) -> Tensor | None:
    found: Tensor | None = getattr(layer, "bias", None)
    return found
