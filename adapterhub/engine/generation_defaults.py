"""What ``generation_config.json`` of an encoder-decoder says about its answers."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transformers import GenerationConfig

from adapterhub.errors import RequestError
from adapterhub.tasks.source_and_target import target_frame_of

if TYPE_CHECKING:
    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.sampling.params import SamplingParams

_LOG = logging.getLogger(__name__)

#: Settings of a search.
_SEARCH = ("num_beams", "length_penalty", "early_stopping")
#: Rules that transformers' own processors of logits apply to greedy, sampled and searched answers.
_RULES = (
    "min_length",
    "min_new_tokens",
    "repetition_penalty",
    "encoder_repetition_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "sequence_bias",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "exponential_decay_length_penalty",
    "remove_invalid_values",
)
_LENGTHS = ("max_length", "max_new_tokens")
_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
#: Fields that change no answer.
_SILENT = ("transformers_version", "use_cache", "cache_implementation", "_from_model_config")


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """Defaults of a checkpoint.

    Args:
        config: transformers' settings, without those that are not used.
        max_tokens: Most tokens of an answer, if the checkpoint says it.
        unused: Names of the settings that are not used, such as those of sampling.
    """

    config: GenerationConfig
    max_tokens: int | None
    unused: tuple[str, ...]

    def complete(self, params: SamplingParams) -> SamplingParams:
        """Return parameters with the checkpoint's number of beams, unless they have their own.

        A request that samples, or has what a search excludes, has no beams by default.
        """
        if params.num_beams is not None:
            return params
        try:
            return replace(params, num_beams=self.config.num_beams or 1)
        except RequestError:
            return replace(params, num_beams=1)


def generation_defaults(backbone: Backbone) -> GenerationDefaults:
    """Return the defaults of an encoder-decoder; without a file those of its configuration."""
    if (backbone.path / "generation_config.json").is_file():
        given = GenerationConfig.from_pretrained(backbone.path).to_diff_dict()
    else:
        given = GenerationConfig.from_model_config(backbone.config).to_diff_dict()
    used = {name: given[name] for name in (*_SEARCH, *_RULES, *_TOKENS) if name in given}
    known = {*used, *_LENGTHS, *_SILENT}
    plain = GenerationConfig._get_default_generation_params()
    unused = [
        name
        for name, value in given.items()
        if name not in known and value not in (None, False, plain.get(name))
    ]
    longest = given.get("max_new_tokens")
    if longest is None and given.get("max_length") is not None:
        # it counts what the decoder reads before the answer
        frame = target_frame_of(backbone.tokenizer)
        before = 1 + len(() if frame is None else frame.before)
        longest = max(int(given["max_length"]) - before, 1)
    return GenerationDefaults(GenerationConfig(**used), longest, tuple(sorted(unused)))


def log_unused(name: str, unused: tuple[str, ...]) -> None:
    """Log which settings of a checkpoint are not used."""
    if unused:
        _LOG.info(
            "%s: of generation_config.json %s not used: a request says how to sample",
            name,
            f"{', '.join(unused)} {'is' if len(unused) == 1 else 'are'}",
        )
