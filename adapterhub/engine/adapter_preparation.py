"""From an artifact to what the engine holds of it, and which adapters go together."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

from adapterhub.adapters.weights import AdapterWeights
from adapterhub.backbones.compatibility import check_prefix_fits
from adapterhub.backbones.fingerprint import check_fingerprint
from adapterhub.backbones.heads import head_model_class
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.engine.adapter_slots import LoraFactors
from adapterhub.engine.factors import lora_factors, prepared_size
from adapterhub.engine.heads import read_head
from adapterhub.engine.prefixes import PrefixStates, prefix_states
from adapterhub.engine.session import task_of
from adapterhub.errors import EngineError
from adapterhub.kernels.attention.kv_cache import cache_shape
from adapterhub.specs import PrefixSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapted_layers import AdaptedLayers
    from adapterhub.engine.host_cache import Prepared
    from adapterhub.tasks.base import Task


class AdapterPreparer:
    """Checks adapters and converts them; safe for use from several threads.

    Args:
        backbone: that they have to be made for.
        sites: of the backbone.
        width: of what heads read.
    """

    def __init__(self, backbone: Backbone, sites: AdaptedLayers, width: int) -> None:
        # a tokenizer changes its settings while it works, and that of prompts is used by others
        self._backbone = replace(backbone, preprocessor=deepcopy(backbone.preprocessor))
        self._sites = sites
        self._width = width
        self._dtype = torch_dtype(backbone.quantization.compute_dtype)

    def artifact(self, artifact: Artifact, *, name: str = "", force: bool = False) -> Prepared:
        """Make an artifact ready.

        Args:
            artifact: verified.
            name: for messages; its digest where not given.
            force: accept one that was trained on another backbone.

        Raises:
            FingerprintMismatch: when it was trained on another backbone.
            StrictLoadError: when its tensors do not fit.
            EngineError: when it is of a kind that is not served.
        """
        name = name or artifact.digest
        wanted = artifact.manifest.backbone.fingerprint
        check_fingerprint(self._backbone.fingerprint, name, wanted, force=force)
        return self.weights(artifact.weights, task_of(artifact.manifest, self._backbone), name=name)

    def weights(self, weights: AdapterWeights, task: Task | None, *, name: str) -> Prepared:
        """Make tensors ready that are no artifact.

        Args:
            weights: of the adapter.
            task: that it was trained for; its labels are those of its head.
            name: for messages.

        Raises:
            StrictLoadError: when its tensors do not fit.
            EngineError: when it is of a kind that is not served.
        """
        reader, keys = (
            (None, frozenset[str]())
            if task is None
            else read_head(weights, task, self._backbone, width=self._width, name=name)
        )
        if isinstance(weights.spec, PrefixSpec):
            check_prefix_fits(self._backbone.kind, self._backbone.name)
            rest = {each: tensor for each, tensor in weights.tensors.items() if each not in keys}
            alone = AdapterWeights(weights.spec, rest)
            shape = cache_shape(self._backbone.config)
            return prefix_states(alone, shape, self._dtype, name=name, reader=reader)
        body = self._body_name(task)
        return lora_factors(weights, self._sites, body, name=name, others=keys, reader=reader)

    def size(self, artifact: Artifact) -> int:
        """Return the bytes of host memory that an artifact will take."""
        return prepared_size(artifact.weights, self._dtype)

    def _body_name(self, task: Task | None) -> str:
        """Return what transformers' class for a task calls the body.

        Raises:
            BackboneError: when the architecture has no such class.
        """
        backbone, found = self._backbone, self._backbone.base_model.base_model_prefix
        if task is not None and task.head != "causal_lm":
            # of Llama's classes, that for answers calls it "transformer", all others "model"
            found = head_model_class(backbone.config, task.head, backbone.name).base_model_prefix
        return str(found or "model")


def virtual_positions(adapters: Sequence[Prepared], weights: Sequence[float]) -> int:
    """Return the length of the prefix among adapters that one row uses, 0 where there is none.

    Args:
        adapters: of the row.
        weights: of each of them.

    Raises:
        EngineError: when they can't be used together.
    """
    prefixes = [
        (each, weight)
        for each, weight in zip(adapters, weights, strict=True)
        if isinstance(each, PrefixStates)
    ]
    for each, weight in zip(adapters, weights, strict=True):
        if isinstance(each, LoraFactors) and (len(adapters) > 1 or weight != 1.0):
            _check_can_blend(each)
    if len(prefixes) > 1 or any(weight != 1.0 for _, weight in prefixes):
        raise EngineError(
            "a row takes one prefix, with weight 1",
            place="adapters",
            hint="Concatenate prefixes beforehand; LoRA adapters may be blended beside one",
        )
    return prefixes[0][0].length if prefixes else 0


def _check_can_blend(factors: LoraFactors) -> None:
    if factors.gains:
        problem = "DoRA multiplies the backbone's own output and can't be blended"
    elif factors.norms:
        problem = "replaces norm layers of the backbone and can't be blended"
    else:
        return
    raise EngineError(problem, place="adapters", hint="Ask for it alone, with weight 1")
