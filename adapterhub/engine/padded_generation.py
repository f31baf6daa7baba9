"""Generation with transformers' own class and cache, for architectures without a fast path."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from adapterhub.backbones.media_inputs import media_inputs
from adapterhub.backbones.quantize import torch_dtype
from adapterhub.backbones.teacher_forcing import decoder_prompt, source_inputs
from adapterhub.engine.adapter_slots import BASE_MODEL
from adapterhub.engine.answer_rules import answer_rules
from adapterhub.engine.beam_search import BeamSearch
from adapterhub.engine.forward_context import PaddedForwardContext, set_forward_context
from adapterhub.engine.generation_defaults import generation_defaults, log_unused
from adapterhub.engine.lock_step import LockStepBatch
from adapterhub.engine.module_state import ModuleState, holds_sequences
from adapterhub.kernels.attention.transformers_interface import own_attention
from adapterhub.tasks.source_and_target import target_frame_of

if TYPE_CHECKING:
    from torch import Tensor

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.engine.adapter_manager import AdapterManager
    from adapterhub.engine.padded_groups import PaddedGroup
    from adapterhub.engine.prepared_adapter import VirtualTokens
    from adapterhub.engine.sequences import Sequence
    from adapterhub.tasks.base import TargetFrame
    from adapterhub.tasks.token_rules import ProcessorRules

_LOG = logging.getLogger(__name__)

#: Largest mean difference of logits, in standard deviations, that is taken for rounding.
_ROUNDING = 0.05
#: Tokens of the sequences that show whether a batch changes them, and forward passes.
_CHECK_TOKENS, _CHECK_STEPS = 6, 3


class PaddedRunner:
    """Computes the forward passes of groups of sequences.

    Args:
        backbone: Decoder, or encoder-decoder.
        model: transformers' class around its adapted layers.
        adapters: Adapters of the running sequences.
    """

    def __init__(self, backbone: Backbone, model: Any, adapters: AdapterManager) -> None:
        self._backbone = backbone
        self._model = model
        self._adapters = adapters
        self._state = ModuleState(model)
        self._config: Any = backbone.config.get_text_config()
        self._pad_token = int(getattr(self._config, "pad_token_id", None) or 0)
        self._equal_lengths: bool | None = None
        #: whether prompts are sources, which the encoder of an encoder-decoder reads
        self.reads_sources = backbone.kind == "encoder-decoder" or backbone.transcribes
        self._frame: TargetFrame | None = None
        if backbone.kind == "encoder-decoder":
            defaults = generation_defaults(backbone)
            model.generation_config = defaults.config
            log_unused(backbone.name, defaults.unused)
            self._frame = target_frame_of(backbone.tokenizer)

    def __call__(self, group: PaddedGroup) -> tuple[Tensor, int]:
        """Compute a step, the first one with all tokens of the sequences.

        Returns:
            Logits ``[num_sequences, vocab_size]`` of the unfinished sequences, and the number of
            computed tokens.
        """
        base_model, first = self._backbone.base_model, group.batch is None
        blend = group.sequences[0].blend or BASE_MODEL
        with (
            torch.no_grad(),
            own_attention(base_model),
            self._state.of(group.kept, first=first),
            blend.override(base_model),
        ):
            batch = group.batch = self._continue(group)
            length = batch.prepare()
            with set_forward_context(self._context(group, length)):
                logits = batch.compute()
        live = [index for index, sequence in enumerate(group.rows) if sequence is not None]
        return logits if len(live) == len(logits) else logits[live], length * len(logits)

    def search(self, group: PaddedGroup) -> list[tuple[Sequence, list[int]]] | None:
        """Compute a token of every beam of a group whose answers are searched for.

        Returns:
            The unfinished sequences with the token ids of their answers, with the end token where
            they have one, or ``None`` if the search goes on.
        """
        base_model, first = self._backbone.base_model, group.search is None
        blend = group.sequences[0].blend or BASE_MODEL
        if group.search is None:
            group.rows = [*group.sequences]
            group.search = self._start_search(group.sequences)
        with (
            torch.no_grad(),
            own_attention(base_model),
            self._state.of(group.kept, first=first),
            blend.override(base_model),
        ):
            answers = group.search.step()
        if answers is None:
            return None
        pairs = zip(group.rows, answers, strict=True)
        return [(sequence, tokens) for sequence, tokens in pairs if sequence is not None]

    def _start_search(self, sequences: list[Sequence]) -> BeamSearch:
        return BeamSearch(
            self._model,
            partial(self._sources, sequences),
            [each.decoder_prompt for each in sequences],
            sequences[0].state,
            _context_of_rows(sequences),
            pad_token=self._pad_token,
            rules=sequences[0].rules,
        )

    def _sources(self, sequences: list[Sequence]) -> dict[str, Tensor]:
        """Return what the encoder reads: recordings, or texts padded on the right."""
        found = [each.media() for each in sequences if each.media is not None]
        if found:
            dtype = torch_dtype(self._backbone.quantization.compute_dtype)
            media = [each.to(self._model.device, dtype) for each in found]
            # transformers warns of a batch without a mask
            mask = torch.ones(len(media), media[0].shape[-1], device=self._model.device)
            return {"attention_mask": mask.long()} | media_inputs(self._model, media)
        prompts = [each.prompt for each in sequences]
        return source_inputs(prompts, self._pad_token, self._model.device)

    def decoder_prompt(self, frame: TargetFrame | None) -> tuple[int, ...]:
        """Return what the decoder of an encoder-decoder reads before an answer.

        Args:
            frame: Special tokens around the answer; those of the backbone's tokenizer if ``None``,
                or the checkpoint's first token where the tokenizer needs a language.
        """
        frame = frame or self._frame
        if frame is not None:
            return tuple(decoder_prompt(self._model, frame.before, frame.after))
        start = self._model.generation_config.decoder_start_token_id
        end = self._backbone.tokenizer.eos_token_id
        return (end if start is None else start,)

    def rules(self, sequence: Sequence) -> ProcessorRules | None:
        """Return the rules of the checkpoint for the tokens of an answer."""
        return answer_rules(self._model, sequence)

    def equal_lengths(self) -> bool:
        """Return whether sequences of equal length do not change each other in a batch.

        They do in classes that mix up the states of a batch; the first call tries it.
        """
        if self._equal_lengths is None:
            with torch.no_grad(), own_attention(self._backbone.base_model):
                self._equal_lengths = self._try_batch()
            if not self._equal_lengths:
                _LOG.warning(
                    "%s: sequences are generated one at a time, because transformers computes a "
                    "batch of them differently",
                    self._backbone.name,
                )
        return self._equal_lengths

    def _continue(self, group: PaddedGroup) -> LockStepBatch:
        """Return the batch of a group, without the sequences that have finished if possible."""
        batch = group.batch
        if batch is None:
            group.rows = [*group.sequences]
            return self._start(group.sequences)
        batch.append([None if each is None else each.output_tokens[-1] for each in group.rows])
        live = [index for index, sequence in enumerate(group.rows) if sequence is not None]
        if len(live) < len(group.rows) and not holds_sequences(group.kept) and batch.keep(live):
            group.rows = [group.rows[index] for index in live]
        return batch

    def _start(self, sequences: list[Sequence]) -> LockStepBatch:
        if self.reads_sources:
            with set_forward_context(_context_of_rows(sequences)):
                return LockStepBatch(
                    self._model,
                    [[*each.decoder_prompt, *each.output_tokens] for each in sequences],
                    pad_token=self._pad_token,
                    sources=self._sources(sequences),
                )
        virtual: VirtualTokens | None = None
        if sequences[0].num_virtual_tokens:
            prefixes = self._adapters.prefixes(sequences[0])
            virtual = prefixes[0] if prefixes else self._adapters.prompt(sequences[0])
        return LockStepBatch(
            self._model,
            [[*each.prompt, *each.output_tokens] for each in sequences],
            pad_token=self._pad_token,
            virtual=virtual,
            all_logits=any(each.active_from for each in sequences),
        )

    def _context(self, group: PaddedGroup, length: int) -> PaddedForwardContext:
        """Return the blends of the last ``length`` tokens of each row."""
        # finished rows use the adapters of another, so that one adapter stays one
        other = group.sequences[0]
        uses = [sequence or other for sequence in group.rows]
        if self.reads_sources:
            return _context_of_rows(uses)
        rows = [each.runs(max(each.length - length, 0), each.length) for each in uses]
        return PaddedForwardContext(rows, length, "left")

    def _try_batch(self) -> bool:
        size = int(self._config.vocab_size)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(size, (2, _CHECK_TOKENS + _CHECK_STEPS), generator=generator).tolist()
        together = self._trial(ids)
        alone = torch.cat([self._trial([each]) for each in ids], dim=1)
        difference = (together - alone).abs().mean()
        return bool(difference <= _ROUNDING * alone.std())

    def _trial(self, ids: list[list[int]]) -> Tensor:
        """Return the logits ``[steps, num_sequences, vocab_size]`` of given tokens."""
        found = []
        with self._state.of({}, first=True):
            start = [each[:_CHECK_TOKENS] for each in ids]
            batch = LockStepBatch(self._model, start, pad_token=self._pad_token)
            for step in range(_CHECK_STEPS):
                batch.prepare()
                found.append(batch.compute().float())
                batch.append([each[_CHECK_TOKENS + step] for each in ids])
        return torch.stack(found)


def _context_of_rows(sequences: list[Sequence]) -> PaddedForwardContext:
    """Return the blends of rows of any number of tokens, as those of an encoder and a decoder."""
    return PaddedForwardContext([[(1, each.blend or BASE_MODEL)] for each in sequences], None)
