"""KV-cache block allocation with prefix reuse.

A block holds the keys and values of ``block_size`` consecutive tokens. A full block is
identified by a hash over the adapters that computed it, all tokens before it and its own. A later
sequence that begins with the same tokens shares the block, read-only. Unused blocks keep their
contents until their memory is needed, least recently used first.
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
class _KvBlock:
    users: int = 0
    content: bytes = b""


class BlockPool:
    """Reference counts of all blocks and hashes of the full ones."""

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._blocks = [_KvBlock() for _ in range(count)]
        #: blocks without users, least recently used first
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        self._cached: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Number of blocks that can be allocated."""
        return len(self._free)

    def allocate(self) -> int | None:
        """Return a block for writing, with one user, or ``None`` if all are in use."""
        if not self._free:
            return None
        number, _ = self._free.popitem(last=False)
        block = self._blocks[number]
        if block.content:
            del self._cached[block.content]
            block.content = b""
        block.users = 1
        return number

    def release(self, numbers: Sequence[int]) -> None:
        """Count one user less of each block; the last block of a sequence is reused first."""
        for number in reversed(numbers):
            block = self._blocks[number]
            if block.users < 1:
                raise EngineError("a block of the KV cache was released twice")
            block.users -= 1
            if not block.users:
                self._free[number] = None
                if not block.content:
                    self._free.move_to_end(number, last=False)

    def share_cached(self, hashes: Sequence[bytes]) -> list[int]:
        """Share the cached blocks of the longest prefix of ``hashes`` and return them."""
        found: list[int] = []
        for content in hashes:
            number = self._cached.get(content)
            if number is None:
                break
            block = self._blocks[number]
            if not block.users:
                del self._free[number]
            block.users += 1
            found.append(number)
        return found

    def register(self, number: int, content: bytes) -> None:
        """Register the hash of a full block, unless another block has the same one."""
        if content not in self._cached and not self._blocks[number].content:
            self._cached[content] = number
            self._blocks[number].content = content


def hash_block(previous: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the hash of a full block.

    Args:
        previous: Hash of the block before it, or ``hash_adapters`` for the first block.
        token_ids: Token ids of the block.
    """
    # an array of 32-bit words, independent of the machine's byte order
    packed = struct.pack(f"<{len(token_ids)}I", *token_ids)
    return blake2b(previous + packed, digest_size=16).digest()


def hash_adapters(key: str, previous: bytes = b"") -> bytes:
    """Return the hash that precedes the first block that adapters compute.

    Args:
        key: The adapters as text, empty for the base model.
        previous: Hash of the block before it, if the base model computed that.
    """
    return blake2b(previous + key.encode(), digest_size=16).digest()
