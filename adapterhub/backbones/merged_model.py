"""Merging of an adapter into the unquantized weights of its backbone, by peft."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from adapterhub.adapters.peft_format import LORA_KEY, WEIGHT_KEY
from adapterhub.backbones.loading import probe_inputs
from adapterhub.backbones.plain_model import load_plain_model
from adapterhub.errors import ArtifactError, first_sentence
from adapterhub.specs import LoraSpec, PrefixSpec, PromptSpec
from adapterhub.third_party import without_warnings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from adapterhub.adapters.artifact import Artifact
    from adapterhub.specs import AdapterSpec
    from adapterhub.tasks.base import HeadKind

#: Largest difference of two float32 computations of one function, in the largest output.
_TOLERANCE = 1e-3
#: Tokens of the text on which the merged model is compared with the adapter beside it.
_PROBE_TOKENS = 16


def check_mergeable(spec: AdapterSpec, place: str) -> None:
    """Require an adapter that is a change of weights for every token.

    Raises:
        ArtifactError: For a prefix, a prompt, or an adapter that starts at some tokens.
    """
    hint = "Serve it as an adapter, or train a LoRA adapter instead"
    if isinstance(spec, PrefixSpec | PromptSpec):
        what = "keys and values" if isinstance(spec, PrefixSpec) else "embeddings"
        raise ArtifactError(
            f"a {spec.method} is trained {what} before the text, not a change of weights, so it "
            "can't be merged",
            place=place,
            hint=hint,
        )
    if isinstance(spec, LoraSpec) and spec.alora_invocation_tokens:
        raise ArtifactError(
            "an activated LoRA changes the weights only from its invocation tokens on, so it "
            "can't be merged",
            place=place,
            hint=hint,
        )


def merge_adapter(
    artifact: Artifact, backbone: Path, *, head: HeadKind, labels: Sequence[str]
) -> PreTrainedModel:
    """Return transformers' class for the adapter's task with the adapter in its weights.

    The weights are those of the backbone's file, in float32 and never quantized. The logits for a
    short input are compared with those of peft's own layers before the merge.

    Args:
        artifact: Verified artifact.
        backbone: Backbone folder.
        labels: Names of the head's outputs; not used by a causal LM.

    Returns:
        The model in float32 on the CPU.

    Raises:
        ArtifactError: If it can't be merged, or merging changes what it computes.
        BackboneError: If the backbone can't be loaded.
    """
    place = str(artifact.path)
    check_mergeable(artifact.weights.spec, place)
    model: Any = load_plain_model(backbone, head, labels)[0].float()
    _check_vocabulary(model, artifact.weights.tensors, place)
    _untie(model, artifact.weights.tensors)
    loaded = _with_adapter(artifact.path, model)
    inputs = _probe(model, artifact.weights.spec)
    with torch.no_grad(), without_warnings():
        expected = _outputs(loaded, inputs)
        merged = _merged(loaded, place)
        _require_equal(_outputs(merged, inputs), expected, place)
    if not _is_tied(merged):
        _set_untied(merged)
    # peft leaves its configuration, with which transformers would save an adapter
    merged._hf_peft_config_loaded = False
    found: PreTrainedModel = merged.eval().requires_grad_(False)
    return found


def _with_adapter(folder: Path, model: nn.Module) -> Any:
    import peft

    try:
        with without_warnings():
            return peft.PeftModel.from_pretrained(model, str(folder)).eval()
    except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        raise ArtifactError(
            f"peft can't load it on the unquantized backbone: {error}", place=str(folder)
        ) from error


def _check_vocabulary(model: Any, tensors: Mapping[str, Tensor], place: str) -> None:
    """Refuse an adapter with another vocabulary, whose tokenizer no artifact holds."""
    embedding = model.get_input_embeddings()
    paths = {path for path, module in model.named_modules() if module is embedding}
    for key, tensor in tensors.items():
        match = WEIGHT_KEY.fullmatch(key)
        if match and match["module"] in paths and len(tensor) != len(embedding.weight):
            raise ArtifactError(
                f"resizes the vocabulary from {len(embedding.weight)} to {len(tensor)} tokens, "
                "and the tokenizer for it is not stored, so it can't be merged",
                place=place,
                hint="Merge it with peft where its tokenizer is",
            )


def _merged(loaded: Any, place: str) -> Any:
    try:
        return loaded.merge_and_unload(safe_merge=True)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ArtifactError(
            f"peft can't merge it: {first_sentence(error)}",
            place=place,
            hint="Serve it as an adapter",
        ) from error


def _untie(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Give embedding and output layer a tensor each where LoRA changes only one of them."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if None in ends or ends[0].weight is not ends[1].weight:
        return
    changed = {match["module"] for key in tensors if (match := LORA_KEY.fullmatch(key))}
    paths = {path for path, module in model.named_modules() if module in ends}
    if paths & changed:
        ends[1].weight = nn.Parameter(ends[1].weight.detach().clone(), requires_grad=False)
        _set_untied(model)


def _is_tied(model: Any) -> bool:
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return None in ends or ends[0].weight is ends[1].weight


def _set_untied(model: Any) -> None:
    for config in (model.config, model.config.get_text_config()):
        if getattr(config, "tie_word_embeddings", False):
            config.tie_word_embeddings = False


def _probe(model: Any, spec: AdapterSpec) -> dict[str, Tensor]:
    """Return a small input; a text holds tokens from the whole vocabulary and all trained ones."""
    inputs = probe_inputs(model)
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None)
    if "input_ids" not in inputs or vocabulary is None:
        return inputs
    ids = torch.linspace(0, vocabulary - 1, min(vocabulary, _PROBE_TOKENS)).long().tolist()
    if isinstance(spec, LoraSpec):
        ids += sorted({each for own in spec.trainable_token_indices.values() for each in own})
    inputs["input_ids"] = torch.tensor([ids])
    return inputs


def _outputs(model: Any, inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Return logits, and for spans those of both ends."""
    output = model(**inputs)
    if hasattr(output, "start_logits"):
        return [output.start_logits, output.end_logits]
    return [output.logits]


def _require_equal(found: Sequence[Tensor], expected: Sequence[Tensor], place: str) -> None:
    for own, reference in zip(found, expected, strict=True):
        scale = float(reference.abs().max()) or 1.0
        difference = float((own - reference).abs().max())
        # also where it is no number
        if not difference <= _TOLERANCE * scale:
            raise ArtifactError(
                f"merging changes its logits by {difference:.2g} where the largest is {scale:.2g}",
                place=place,
                hint="Serve it as an adapter",
            )
