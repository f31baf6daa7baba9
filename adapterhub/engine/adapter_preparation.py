"""Checks adapters against the backbone and converts them to the compute type."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.compatibility import check_prefix_fits
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.heads import head_model_class
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.heads import read_head
from adapterhub.engine.lora_factors import lora_factors, prepared_size
from adapterhub.engine.prepared_adapter import LoraFactors, PrefixStates
from adapterhub.engine.session import task_of
from adapterhub.errors import EngineError, StrictLoadError
from adapterhub.kernels.attention.kv_cache import cache_shape
from adapterhub.specs import PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.heads import TaskHead
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.tasks.base import Task


class AdapterPreparer:
    """Checks and converts adapters of one backbone; safe for use from several threads."""

    def __init__(self, backbone: Backbone, layers: AdaptedLayers, width: int) -> None:
        # a tokenizer changes its settings while it works, and that of prompts is used by others
        self._backbone = replace(backbone, preprocessor=deepcopy(backbone.preprocessor))
        self._layers = layers
        self._width = width
        self._dtype = torch_dtype(backbone.quantization.compute_dtype)

    def artifact(
        self, artifact: Artifact, *, name: str = "", force: bool = False
    ) -> PreparedAdapter:
        """Prepare an artifact.

        Args:
            artifact: Verified artifact.
            name: Name for error messages; the digest by default.
            force: Whether to accept an adapter that was trained on another backbone.
        """
        name = name or artifact.digest
        wanted = artifact.manifest.backbone.fingerprint
        check_fingerprint(self._backbone.fingerprint, name, wanted, force=force)
        return self.weights(artifact.weights, task_of(artifact.manifest, self._backbone), name=name)

    def weights(self, weights: AdapterWeights, task: Task | None, *, name: str) -> PreparedAdapter:
        """Prepare weights that do not come from an artifact."""
        head, keys = (
            (None, frozenset[str]())
            if task is None
            else read_head(weights, task, self._backbone, width=self._width, name=name)
        )
        if isinstance(weights.spec, PrefixSpec):
            check_prefix_fits(self._backbone.kind, self._backbone.name)
            rest = {each: tensor for each, tensor in weights.tensors.items() if each not in keys}
            alone = AdapterWeights(weights.spec, rest)
            shape = cache_shape(self._backbone.config)
            return _prefix_states(alone, shape, self._dtype, name=name, head=head)
        prefix = self._base_model_prefix(task)
        return lora_factors(weights, self._layers, prefix, name=name, others=keys, head=head)

    def size(self, artifact: Artifact) -> int:
        """Return the bytes of host memory that an artifact takes once it is prepared."""
        return prepared_size(artifact.weights, self._dtype)

    def _base_model_prefix(self, task: Task | None) -> str:
        """Return the name of the base model in transformers' class for a task."""
        backbone, found = self._backbone, self._backbone.base_model.base_model_prefix
        if task is not None and task.head != "causal_lm":
            # Llama's class for question answering calls it "transformer", all others "model"
            found = head_model_class(backbone.config, task.head, backbone.name).base_model_prefix
        return str(found or "model")


def num_virtual_tokens(adapters: Sequence[PreparedAdapter], weights: Sequence[float]) -> int:
    """Return the number of virtual tokens of the adapters of a request, 0 without a prefix."""
    prefixes = []
    for adapter, weight in zip(adapters, weights, strict=True):
        if isinstance(adapter, PrefixStates):
            prefixes.append((adapter, weight))
        elif len(adapters) > 1 or weight != 1.0:
            _check_can_blend(adapter)
    if len(prefixes) > 1 or any(weight != 1.0 for _, weight in prefixes):
        raise EngineError(
            "a request can use one prefix adapter, with weight 1",
            place="adapters",
            hint="Concatenate prefixes beforehand; LoRA adapters may be blended beside one",
        )
    return prefixes[0][0].length if prefixes else 0


def _check_can_blend(factors: LoraFactors) -> None:
    if factors.magnitude_scales:
        problem = "DoRA multiplies the backbone's own output and cannot be blended"
    elif factors.norms:
        problem = "replaces norm layers of the backbone and cannot be blended"
    else:
        return
    raise EngineError(problem, place="adapters", hint="Use it alone, with weight 1")


def _prefix_states(
    weights: AdapterWeights,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    *,
    name: str,
    head: TaskHead | None,
) -> PrefixStates:
    """Return the keys and values of a prefix adapter.

    Its one tensor is ``[num_virtual_tokens, num_layers * 2 * num_kv_heads * head_dim]``, with
    the keys before the values of each layer. Source: ``get_prompt`` in peft's ``peft_model.py``.
    """
    layers, heads, width = shape
    prompt = weights.tensors.get(PROMPT_KEY)
    others = [key for key in weights.tensors if key != PROMPT_KEY]
    size = 2 * layers * heads * width
    if prompt is None or others or prompt.dim() != 2 or prompt.shape[1] != size:
        wanted = f"{PROMPT_KEY} of shape [tokens, {size}]"
        found = [] if prompt is None else [f"{PROMPT_KEY} of shape {list(prompt.shape)}"]
        raise StrictLoadError(name, [wanted], [*others, *found])
    states = prompt.to(dtype).view(len(prompt), layers, 2, heads, width)
    return PrefixStates(
        tuple(states[:, layer, 0].contiguous() for layer in range(layers)),
        tuple(states[:, layer, 1].contiguous() for layer in range(layers)),
        head,
    )
