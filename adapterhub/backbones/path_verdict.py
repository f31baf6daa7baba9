"""The verdict on the forward paths of a backbone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any


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
        reasons: One sentence for each ``False`` that was found by the check.
    """

    packed: bool
    paged: bool
    position_offset: int
    padding: bool
    left_padding: bool
    mixed: bool
    reasons: tuple[str, ...]

    @classmethod
    def parse(cls, document: Any) -> ForwardPaths | None:
        """Return a verdict from its stored fields, or ``None`` if they are damaged."""
        types: dict[str, type] = {"position_offset": int, "reasons": list}
        if not isinstance(document, dict) or set(document) != {f.name for f in fields(cls)}:
            return None
        if any(type(value) is not types.get(name, bool) for name, value in document.items()):
            return None
        return cls(**{**document, "reasons": tuple(map(str, document["reasons"]))})

    @property
    def summary(self) -> str:
        """One line for people: what runs fast, and why the rest does not."""
        fast = [
            name
            for name, equal in (
                ("packed sequences", self.packed),
                ("paged KV cache", self.paged),
            )
            if equal
        ]
        first = f"fast path ({', '.join(fast)})" if fast else "padded path"
        return first + "".join(f"; not used: {reason}" for reason in self.reasons)

    @property
    def batches(self) -> str:
        """One line for people: what the padded path may put into one batch."""
        lengths = "any lengths" if self.padding else "equal lengths only"
        adapters = "mixed adapters" if self.mixed else "one adapter at a time"
        return f"{lengths}, {adapters}"


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
