"""The verdict on the forward paths of a backbone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForwardPaths:
    """Which forward paths are equal to transformers' own forward on a backbone.

    The padded path is transformers' own forward; all others are faster. Everything ``False`` is
    always right.

    Args:
        packed: Whether the base model can run over packed sequences (training, labelling,
            embedding).
        paged: Whether it can generate over the paged KV cache, prefill and decode.
        position_offset: Position of the first token of a packed sequence (RoBERTa:
            ``padding_idx + 1``).
        padding: Whether a sequence in a right-padded batch equals the sequence alone.
        left_padding: Whether it does in a left-padded batch with transformers' cache (generation).
        mixed: Whether sequences with different adapters in one padded batch equal isolated ones.
        reasons: One sentence for each ``False``.
    """

    packed: bool
    paged: bool
    position_offset: int
    padding: bool
    left_padding: bool
    mixed: bool
    reasons: tuple[str, ...]


#: Safe for every architecture: one sequence length and one adapter at a time.
PADDED_ONLY = ForwardPaths(
    packed=False,
    paged=False,
    position_offset=0,
    padding=False,
    left_padding=False,
    mixed=False,
    reasons=(),
)
