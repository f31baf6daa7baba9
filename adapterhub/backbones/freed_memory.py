"""Give freed memory back to the system."""

from __future__ import annotations

import ctypes
import platform


def return_freed_memory() -> None:
    """Ask the C library to hand back what is freed, where it keeps it: glibc alone does.

    Quantizing leaves the heap full of holes, of which glibc otherwise keeps several times
    the size of the quantized weights (seen: 390 MB resident for 111 MB held).
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)
