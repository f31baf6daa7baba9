"""Operands of matrix tiles in aligned memory, and their product."""

from __future__ import annotations

from typing import Any

import numpy as np

from adapterhub.kernels import amx
from adapterhub.kernels.numba_support import compiled


@compiled()
def aligned(words: int) -> Any:
    """Return uninitialised 32-bit words that start at a multiple of 64 bytes."""
    memory = np.empty(words + 16, np.uint32)
    skip = (-memory.ctypes.data // 4) % 16
    return memory[skip : skip + words]


@compiled()
def read_rows(source: Any, start: int, count: int, head: int, rows: Any) -> None:
    """Copy the states of one head of ``[num_tokens, heads, head_dim]``, and fill up with zeros."""
    for row in range(count):
        for k in range(rows.shape[1]):
            rows[row, k] = source[start + row, head, k]
    rows[count:] = 0


@compiled()
def pack_transposed(rows: Any, packed: Any) -> None:
    """Write bfloat16 ``[n, dim]`` as right tiles of its transpose, ``[n / 16, dim / 32]``."""
    words = rows.reshape(rows.size).view(np.uint32).reshape(rows.shape[0], rows.shape[1] // 2)
    steps = words.shape[1] // amx.ROWS
    tiles = packed.reshape(rows.shape[0] // amx.ROWS, steps, amx.ROWS, amx.ROWS)
    for group in range(tiles.shape[0]):
        for step in range(steps):
            for pair in range(amx.ROWS):
                for column in range(amx.ROWS):
                    tiles[group, step, pair, column] = words[
                        group * amx.ROWS + column, step * amx.ROWS + pair
                    ]


@compiled()
def pack_pairs(rows: Any, packed: Any) -> None:
    """Write bfloat16 ``[n, dim]`` as right tiles, ``[dim / 16, n / 32]``."""
    steps = rows.shape[0] // amx.DEPTH
    tiles = packed.reshape(rows.shape[1] // amx.ROWS, steps, amx.ROWS, amx.ROWS)
    for group in range(tiles.shape[0]):
        for step in range(steps):
            for pair in range(amx.ROWS):
                first = step * amx.DEPTH + 2 * pair
                for column in range(amx.ROWS):
                    at = group * amx.ROWS + column
                    tiles[group, step, pair, column] = np.uint32(rows[first, at]) | (
                        np.uint32(rows[first + 1, at]) << np.uint32(16)
                    )


@compiled()
def multiply_tiles(
    left: int,
    left_stride: int,
    right: int,
    right_stride: int,
    depth: int,
    total: int,
    total_stride: int,
    rows: int,
    columns: int,
    adds: bool,
) -> None:
    """Write, or add, the product of left rows and right tiles.

    Args:
        left: Address of bfloat16 ``[rows, 32 * depth]``.
        left_stride: Bytes from a row to the next.
        right: Address of tiles ``[columns / 16, depth]``.
        right_stride: Bytes from the tiles of 16 columns to the next.
        depth: Number of tiles in a row.
        total: Address of float32 ``[rows, columns]``.
        total_stride: Bytes from a row to the next.
        rows: Multiple of 32.
        columns: Multiple of 32.
        adds: Whether the product is added to ``total``, else written.
    """
    for row in range(0, rows, 32):
        for column in range(0, columns, 32):
            c = total + row * total_stride + 4 * column
            lower = c + 16 * total_stride
            if adds:
                amx.load(0, c, total_stride)
                amx.load(1, c + 64, total_stride)
                amx.load(2, lower, total_stride)
                amx.load(3, lower + 64, total_stride)
            else:
                amx.clear(0)
                amx.clear(1)
                amx.clear(2)
                amx.clear(3)
            a, b = left + row * left_stride, right + column // 16 * right_stride
            for _ in range(depth):
                amx.load(4, a, left_stride)
                amx.load(5, a + 16 * left_stride, left_stride)
                amx.load(6, b, 64)
                amx.load(7, b + right_stride, 64)
                amx.multiply(0, 4, 6)
                amx.multiply(1, 4, 7)
                amx.multiply(2, 5, 6)
                amx.multiply(3, 5, 7)
                a += 64
                b += amx.TILE
            amx.store(0, c, total_stride)
            amx.store(1, c + 64, total_stride)
            amx.store(2, lower, total_stride)
            amx.store(3, lower + 64, total_stride)
