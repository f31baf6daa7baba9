"""Checks of adapters against the backbone, and their conversion to its layers and compute type."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from adapterhub.adapters.peft_format import LORA_BIAS_PART, LORA_KEY
from adapterhub.adapters.tensor_checks import PROMPT_KEY
from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.adapter_config import check_prefix_fits
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.forward_paths import forward_paths
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.adapter_effect import EffectChecker
from adapterhub.engine.adapter_task import task_of
from adapterhub.engine.heads import HeadBuilder, TaskHead
from adapterhub.engine.lora_preparation import lora_factors
from adapterhub.engine.parameter_overrides import BASE_WEIGHTS
from adapterhub.engine.prepared_adapter import LoraFactors, PrefixStates, PromptEmbeddings
from adapterhub.engine.tensor_names import MAGNITUDE
from adapterhub.errors import EngineError, StrictLoadError
from adapterhub.kernels.attention.kv_cache import cache_shape
from adapterhub.specs import PrefixSpec, PromptSpec
from adapterhub.tasks.base import LANGUAGE_HEADS

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor, nn

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.prepared_adapter import PreparedAdapter
    from adapterhub.tasks.base import Task

#: The layer inside peft's own, which peft stores beside LoRA on an embedding.
_BASE = ".base_layer"


class AdapterPreparer:
    """Checks and converts adapters of one backbone; safe for use from several threads."""

    def __init__(self, backbone: Backbone, layers: AdaptedLayers) -> None:
        # a tokenizer changes its settings while it works, and that of prompts is used by others
        self._backbone = replace(backbone, preprocessor=deepcopy(backbone.preprocessor))
        self._layers = layers
        self.effects = EffectChecker(layers)
        self._heads = HeadBuilder(backbone)
        self._dtype = torch_dtype(backbone.quantization.compute_dtype)

    def artifact(
        self,
        artifact: Artifact,
        *,
        name: str = "",
        force: bool = False,
        needs_effect: bool = True,
    ) -> PreparedAdapter:
        """Prepare an artifact.

        Args:
            artifact: Verified artifact.
            name: Name for error messages; the digest by default.
            force: Whether to accept an adapter that was trained on another backbone.
            needs_effect: Whether to reject an adapter that changes nothing.
        """
        name = name or artifact.digest
        wanted = artifact.manifest.backbone.fingerprint
        check_fingerprint(self._backbone.fingerprint, name, wanted, force=force)
        task = task_of(artifact.manifest, self._backbone)
        return self.weights(artifact.weights, task, name=name, needs_effect=needs_effect)

    def weights(
        self, weights: AdapterWeights, task: Task | None, *, name: str, needs_effect: bool = True
    ) -> PreparedAdapter:
        """Prepare weights that do not come from an artifact."""
        prepared = self._convert(weights, task, name)
        if needs_effect:
            self.effects.check(prepared, name)
        return prepared

    def _convert(self, weights: AdapterWeights, task: Task | None, name: str) -> PreparedAdapter:
        head, keys = self._head(weights, task, name)
        if isinstance(weights.spec, PrefixSpec):
            check_prefix_fits(self._backbone.kind, self._backbone.name, self._backbone.config)
            rest = {each: tensor for each, tensor in weights.tensors.items() if each not in keys}
            alone = AdapterWeights(weights.spec, rest)
            shape = cache_shape(self._backbone.config)
            return _prefix_states(alone, shape, self._dtype, name=name, head=head)
        if isinstance(weights.spec, PromptSpec):
            return self._prompt(weights, keys, name=name, head=head)
        prefix = self._base_model_prefix(task)
        factors = lora_factors(weights, self._layers, prefix, name=name, others=keys, head=head)
        generation = None if task is None else task.generation
        return (
            factors
            if generation is None
            else replace(factors, target_frame=generation.target_frame)
        )

    def _prompt(
        self, weights: AdapterWeights, keys: Collection[str], *, name: str, head: TaskHead | None
    ) -> PrefixStates | PromptEmbeddings:
        """Return a prompt, as keys and values where the base model is causal."""
        if self._backbone.kind == "encoder-decoder":
            raise EngineError(
                "prompts of an encoder-decoder are not supported",
                place=name,
                hint="Use a LoRA adapter on it",
            )
        size = int(self._layers.embedding_width)
        prompt = weights.tensors.get(PROMPT_KEY)
        others = [key for key in weights.tensors if key != PROMPT_KEY and key not in keys]
        if prompt is None or others or prompt.dim() != 2 or prompt.shape[1] != size:
            wanted = f"{PROMPT_KEY} of shape [tokens, {size}]"
            found = [] if prompt is None else [f"{PROMPT_KEY} of shape {list(prompt.shape)}"]
            raise StrictLoadError(name, [wanted], [*others, *found])
        embeddings = prompt.to(self._dtype, copy=True)
        if self._backbone.kind == "decoder":
            paths = forward_paths(self._backbone)
            if paths.paged and paths.packed:
                return prompt_states(self._layers.base_model, embeddings, head)
        return PromptEmbeddings(embeddings, head)

    def _head(
        self, weights: AdapterWeights, task: Task | None, name: str
    ) -> tuple[TaskHead | None, frozenset[str]]:
        """Return the head of an adapter, if it has one, and the keys of its tensors."""
        if task is None:
            return None, frozenset()
        head = self._heads.read(weights, task, name=name)
        if head is None:
            return None, frozenset()
        return TaskHead(task, head), self._heads.keys(weights, task)

    def size(self, artifact: Artifact) -> int:
        """Return the bytes of host memory that an artifact takes once it is prepared."""
        return prepared_size(artifact.weights, self._dtype)

    def _base_model_prefix(self, task: Task | None) -> str:
        """Return the name of the base model in transformers' class for a task."""
        found = self._backbone.base_model.base_model_prefix
        # the encoder that a class with a head reads has its own name in the base model already
        if task is not None and task.head not in LANGUAGE_HEADS and not self._backbone.transcribes:
            # Llama's class for question answering calls it "transformer", all others "model"
            found = self._heads.base_name(task) or found
        return str(found or "model")


def num_virtual_tokens(adapters: Sequence[PreparedAdapter], weights: Sequence[float]) -> int:
    """Return the number of virtual tokens of the adapters of a request, 0 without any."""
    prefixes = []
    for adapter, weight in zip(adapters, weights, strict=True):
        if not isinstance(adapter, LoraFactors):
            prefixes.append((adapter, weight))
        elif len(adapters) > 1 or weight != 1.0:
            _check_can_blend(adapter)
    if len(prefixes) > 1 or any(weight != 1.0 for _, weight in prefixes):
        raise EngineError(
            "a request can use one prefix adapter, with weight 1, be it of prefix or prompt tuning",
            place="adapters",
            hint="Concatenate prefixes beforehand; LoRA adapters may be blended beside one",
        )
    if len(adapters) > 1 and any(prefix.computed for prefix, _ in prefixes):
        raise EngineError(
            "what a prompt of prompt tuning computes depends on the other adapters",
            place="adapters",
            hint="Use it alone, with weight 1",
        )
    return prefixes[0][0].length if prefixes else 0


def _check_can_blend(factors: LoraFactors) -> None:
    """Require an adapter whose weighted sum with others is exact: LoRA pairs and added biases."""
    problems = {
        "DoRA multiplies the backbone's own output": factors.magnitude_scales,
        "IA³ multiplies activations": {**factors.input_scales, **factors.output_scales},
        "replaces norm layers of the backbone": factors.norms,
        "replaces weights of the backbone": factors.weights or factors.overrides,
        "replaces vectors of single tokens": factors.rows,
        "is active only from its invocation tokens on": factors.invocation,
    }
    for problem, found in problems.items():
        if found:
            raise EngineError(
                f"{problem} and cannot be blended",
                place="adapters",
                hint="Use it alone, with weight 1",
            )


def prompt_states(
    base_model: nn.Module, embeddings: Tensor, head: TaskHead | None = None
) -> PrefixStates:
    """Return the keys and values of a prompt of input embeddings ``[tokens, hidden_size]``.

    What follows a prompt changes nothing in it where attention is causal, so the base model
    computes it once.
    """
    device = next(base_model.parameters()).device
    cache = DynamicCache()
    with BASE_WEIGHTS, torch.no_grad():
        base_model(
            inputs_embeds=embeddings.unsqueeze(0).to(device), past_key_values=cache, use_cache=True
        )
    return PrefixStates(
        tuple(layer.keys[0].transpose(0, 1).contiguous().cpu() for layer in cache.layers),
        tuple(layer.values[0].transpose(0, 1).contiguous().cpu() for layer in cache.layers),
        head,
        computed=True,
    )


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


def prepared_size(weights: AdapterWeights, dtype: torch.dtype) -> int:
    """Return the bytes of an adapter in a compute type, at most.

    DoRA's magnitudes become factors of the layer's output in float32. Modules that the adapter
    holds in full count as float32, which those of a head are. Copies of the backbone's own layers
    are compared and not kept.
    """
    return sum(
        tensor.numel() * (dtype.itemsize if _is_converted(key) else 4)
        for key, tensor in weights.tensors.items()
        if not key.rpartition(".")[0].endswith(_BASE)
    )


def _is_converted(key: str) -> bool:
    if key.endswith((MAGNITUDE, LORA_BIAS_PART)):
        return False
    return key == PROMPT_KEY or LORA_KEY.fullmatch(key) is not None
