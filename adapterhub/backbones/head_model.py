"""transformers' own class for a task around the backbone's shared base model."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from adapterhub.backbones.module_sharing import base_child
from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from adapterhub.tasks.base import HeadKind

#: Arguments that classes pass on to their base model without naming them.
_THROUGH_KWARGS = frozenset({"packed", "paged"})


class HeadModel:
    """transformers' class for a task around the shared base model.

    Whatever the class holds beside the base model is the head. peft may wrap its modules and those
    of the base model afterwards.

    Args:
        model: Instance of the class.
        kind: Kind of the head.
        head_modules: Paths of the modules that a task learns in full: the head, and modules of the
            base model whose weights the checkpoint lacks, such as a pooler.
    """

    def __init__(
        self, model: PreTrainedModel, kind: HeadKind, head_modules: tuple[str, ...] = ()
    ) -> None:
        self.model = model
        self.kind = kind
        self.head_modules = head_modules
        #: name of the child that is the base model; ``None`` where the class is not divided so
        self.base_name = base_child(model)
        self._padding: int | None = getattr(model.config.get_text_config(), "pad_token_id", None)

    @property
    def base_model(self) -> nn.Module:
        """The base model as this class holds it.

        Raises:
            BackboneError: If the class has none; ``forward`` then is the only way to compute.
        """
        if self.base_name is None:
            raise BackboneError(f"{type(self.model).__name__} has no base model of its own")
        found: nn.Module = getattr(self.model, self.base_name)
        return found

    @property
    def frozen_model(self) -> nn.Module:
        """The base model, or the whole class where it is not divided."""
        return self.model if self.base_name is None else self.base_model

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Run the whole class.

        Args:
            inputs: Arguments of its ``forward``; those that it does not take are left out.

        Returns:
            ``[batch, classes]``; per token ``[batch, length, classes]``, or for spans
            ``[batch, length, 2]``, or ``[batch, length, vocab_size]``.
        """
        return _logits(self.model(**self._accepted(inputs)))

    def base_inputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments that the class gives its base model.

        Nothing is computed but what the class does before it calls the base model.
        """
        target = self.base_model

        def record(*args: Any, **kwargs: Any) -> Any:
            raise _Recorded(_bound(target, args, kwargs))

        try:
            self._with_base(record)(**self._accepted(inputs))
        except _Recorded as recorded:
            return recorded.arguments
        raise BackboneError(f"{type(self.model).__name__} does not call its base model")

    def logits_of(self, base_output: Any, inputs: Mapping[str, Any] | None = None) -> Tensor:
        """Run what the class computes after its base model.

        Args:
            base_output: Output of the base model, or last hidden states
                ``[batch, length, hidden_size]``, of which the base model's pooler, if it has one,
                computes the pooled output.
            inputs: Arguments as for ``forward``. Without them every position is a real token.

        Returns:
            Shaped as by ``forward``.
        """
        output = self.pooled(base_output) if isinstance(base_output, Tensor) else base_output
        if inputs is None:
            inputs = self._all_real(output[0])
        return _logits(self._with_base(lambda *_, **__: output)(**self._accepted(inputs)))

    @property
    def padding_token(self) -> int:
        """Token to pad a batch with."""
        return 0 if self._padding is None else self._padding

    @property
    def has_segments(self) -> bool:
        """Whether the class distinguishes the segments of a text pair."""
        types = getattr(self.model.config, "type_vocab_size", None)
        return self.takes("token_type_ids") and (types is None or types > 1)

    @property
    def output_layer(self) -> nn.Module:
        """The last linear layer of a new head.

        Raises:
            BackboneError: If the head has none.
        """
        found = [
            module
            for path in self.head_modules
            for module in _active(self.model.get_submodule(path)).modules()
            if isinstance(module, nn.Linear)
        ]
        if not found:
            raise BackboneError(f"{type(self.model).__name__} has no linear head")
        return found[-1]

    def takes(self, argument: str) -> bool:
        """Return whether the class's ``forward`` names an argument."""
        return argument in inspect.signature(self.model.forward).parameters

    def _accepted(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        parameters = inspect.signature(self.model.forward).parameters
        accepted = {
            name: value
            for name, value in inputs.items()
            if value is not None and (name in parameters or name in _THROUGH_KWARGS)
        }
        if "use_cache" in parameters:
            accepted.setdefault("use_cache", False)
        if self._padding is None and self.kind == "sequence":
            self._mark_padding(accepted)
        return accepted

    def _mark_padding(self, accepted: dict[str, Any]) -> None:
        """Replace padding by a token that is not in the batch, and tell the class.

        A decoder's class finds the end of a sequence by its padding token, and this checkpoint has
        none. Embeddings must be of sequences of equal length.
        """
        input_ids, attention_mask = accepted.get("input_ids"), accepted.get("attention_mask")
        if input_ids is None:
            self.model.config.get_text_config().pad_token_id = 0
            return
        if attention_mask is not None:
            # trained keys and values may precede the tokens
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        used = set(input_ids[real.bool()].tolist())
        padding = next(token for token in range(len(used) + 1) if token not in used)
        self.model.config.get_text_config().pad_token_id = padding
        accepted["input_ids"] = torch.where(real.bool(), input_ids, padding)

    def _with_base(self, function: Callable[..., Any]) -> Any:
        """Return a view of the class whose base model is a function."""
        base_model = self.base_model
        return _with_child(self.model, str(self.base_name), _BaseStub(base_model, function))

    def pooled(self, hidden: Tensor) -> Any:
        """Return hidden states as the base model's output, pooled as it does."""
        base_model = self.base_model
        pooler = getattr(base_model, "pooler", None)
        if not isinstance(pooler, nn.Module):
            return BaseOutput(last_hidden_state=hidden)
        if not hasattr(_unwrapped(pooler), "in_features"):
            return BaseOutput(last_hidden_state=hidden, pooler_output=pooler(hidden))
        # the base model itself selects the token and applies the activation: it runs, with the
        # hidden states in place of its layers
        layers = max(base_model.named_children(), key=lambda child: len(list(child[1].modules())))
        output = BaseOutput(last_hidden_state=hidden)
        view = _with_child(base_model, layers[0], _BaseStub(layers[1], lambda *_, **__: output))
        return view(**self._all_real(hidden))

    def _all_real(self, hidden: Tensor) -> dict[str, Tensor]:
        shape = hidden.shape[:2]
        pad = getattr(self.model.config.get_text_config(), "pad_token_id", None)
        ids = torch.full(shape, 1 if pad == 0 else 0, dtype=torch.int64, device=hidden.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _logits(output: Any) -> Tensor:
    start, end = getattr(output, "start_logits", None), getattr(output, "end_logits", None)
    logits: Tensor = (
        output.logits if start is None or end is None else torch.stack([start, end], -1)
    )
    return logits


def _bound(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    signature = inspect.signature(module.forward)
    bound = dict(signature.bind(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            bound |= bound.pop(name, {})
    return {name: value for name, value in bound.items() if value is not None}


def _with_child(module: nn.Module, name: str, child: nn.Module) -> Any:
    """Return a view of a module with another child."""
    view = copy.copy(module)
    # copy.copy shares the dictionary of children
    view._modules = {**module._modules, name: child}
    return view


def _active(module: Any) -> nn.Module:
    """Return the module that computes: an adapter's own, if it stores one."""
    if isinstance(module, ModulesToSaveWrapper):
        (name,) = module.active_adapters
        return module.original_module if module.disable_adapters else module.modules_to_save[name]
    found: nn.Module = module
    return found


def _unwrapped(module: Any) -> nn.Module:
    """Return the layer inside peft's wrappers."""
    if isinstance(module, ModulesToSaveWrapper):
        return module.original_module
    found: nn.Module = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    return found


class _Recorded(Exception):
    """Ends a recording; carries the recorded arguments."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


class _BaseStub(nn.Module):
    """Stands for a base model; calling it, or a model inside it, calls a function."""

    def __init__(self, base_model: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        # not a child: a view must not own the base model's parameters
        object.__setattr__(self, "_base_model", base_model)
        object.__setattr__(self, "_function", function)

    def __getattr__(self, name: str) -> Any:
        found = getattr(object.__getattribute__(self, "_base_model"), name)
        if isinstance(found, PreTrainedModel):
            # some classes call the decoder inside their base model
            return _BaseStub(found, object.__getattribute__(self, "_function"))
        return found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)


@dataclass
class BaseOutput(BaseModelOutputWithPooling):
    """Hidden states as a base model returns them; every other field is absent."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None
