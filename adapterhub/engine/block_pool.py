"""Which blocks of the key-value cache belong to whom, and which prompts they already hold.

A block holds the keys and values of ``block_size`` neighbouring positions. A full block is known
by what it is made of: the adapters that computed it, all tokens before it, and its own. A later
row that begins alike takes the same block, read-only. BlockPool that nobody uses stay known until
their memory is needed, the least recently used first.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from adapterhub.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class _Block:
    users: int = 0
    content: bytes = b""


class BlockPool:
    """Counts of users of every block, and the contents of those that are full.

    Args:
        count: of blocks.
        size: positions in a block.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._blocks = [_Block() for _ in range(count)]
        #: blocks without users, the least recently used first
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        self._by_content: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Number of blocks that can be taken."""
        return len(self._free)

    @property
    def count(self) -> int:
        """Number of all blocks."""
        return len(self._blocks)

    def take(self) -> int | None:
        """Return a block for writing, with one user, or ``None`` where all are used."""
        if not self._free:
            return None
        number, _ = self._free.popitem(last=False)
        block = self._blocks[number]
        if block.content:
            del self._by_content[block.content]
            block.content = b""
        block.users = 1
        return number

    def share(self, number: int) -> None:
        """Count one more user of a block."""
        block = self._blocks[number]
        if not block.users:
            del self._free[number]
        block.users += 1

    def release(self, numbers: Sequence[int]) -> None:
        """Count one user less of each block; the last one of a row is taken again first."""
        for number in reversed(numbers):
            block = self._blocks[number]
            if block.users < 1:
                raise EngineError("a block of the key-value cache was released twice")
            block.users -= 1
            if not block.users:
                self._free[number] = None
                if not block.content:
                    self._free.move_to_end(number, last=False)

    def find(self, contents: Sequence[bytes]) -> list[int]:
        """Return the known blocks of the longest beginning of ``contents``, users counted."""
        found: list[int] = []
        for content in contents:
            number = self._by_content.get(content)
            if number is None:
                break
            self.share(number)
            found.append(number)
        return found

    def know(self, number: int, content: bytes) -> None:
        """Note what a full block holds; a content that is known already stays where it is."""
        if content not in self._by_content and not self._blocks[number].content:
            self._by_content[content] = number
            self._blocks[number].content = content

    def forget(self) -> None:
        """Forget all contents."""
        self._by_content.clear()
        for block in self._blocks:
            block.content = b""


def content_name(before: bytes, cells: Sequence[int]) -> bytes:
    """Return what names a full block: who computed it and every token up to its end.

    Args:
        before: name of the block before it, or ``first_name`` of the row.
        cells: tokens of the block.
    """
    # an array of 32-bit words, whatever the machine's order of bytes
    return blake2b(before + struct.pack(f"<{len(cells)}I", *cells), digest_size=16).digest()


def first_name(key: str) -> bytes:
    """Return what stands before the first block of a row.

    Args:
        key: canonical name of the adapters, with their digests.
    """
    return blake2b(key.encode(), digest_size=16).digest()
