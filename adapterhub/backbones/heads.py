"""transformers' classes for the tasks, and base models without a pooler."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoModelForAudioClassification,
    AutoModelForCausalLM,
    AutoModelForCTC,
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoModelForTokenClassification,
)

from adapterhub.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedModel

    from adapterhub.tasks.base import HeadKind

_AUTO_CLASSES = {
    "causal_lm": AutoModelForCausalLM,
    "seq2seq_lm": AutoModelForSeq2SeqLM,
    "speech_seq2seq": AutoModelForSpeechSeq2Seq,
    "sequence": AutoModelForSequenceClassification,
    "token": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "image": AutoModelForImageClassification,
    "audio": AutoModelForAudioClassification,
    "ctc": AutoModelForCTC,
}


def head_model_class(config: PretrainedConfig, head: HeadKind, place: str) -> type[PreTrainedModel]:
    """Return transformers' class for a head on an architecture."""
    mapping = _AUTO_CLASSES[head]._model_mapping
    if type(config) not in mapping:
        raise BackboneError(
            f"the architecture {config.model_type!r} has no {head} head",
            place=place,
            hint="Use another backbone, or a task that generates text on one that does",
        )
    found: Any = mapping[type(config)]
    # DeiT has two, the second for distillation
    chosen: type[PreTrainedModel] = found[0] if isinstance(found, tuple) else found
    return chosen


def without_pooler(base_model: nn.Module) -> nn.Module:
    """Return a view of a base model, which is shared, without its pooler."""
    view = copy.copy(base_model)
    # copy.copy shares the dictionary of children, and the pooler is removed from the view alone
    view._modules = {**base_model._modules, "pooler": None}
    return view
