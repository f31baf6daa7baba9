"""Folder of compiled kernels, a new one for each state of their sources.

numba's own cache looks at the file of a compiled function alone. When a function that it calls, in
another file, has changed, it would go on running the old machine code.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import numba
import platformdirs

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds for which the kernels of another version are kept after their last compilation.
_KEPT = 30 * 24 * 3600.0


@contextmanager
def compilation_cache() -> Iterator[None]:
    """Let functions that are decorated inside be cached in this folder.

    A folder that the user sets by ``NUMBA_CACHE_DIR`` gets a subfolder instead.
    """
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_folder(before))
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


@cache
def _folder(root: str) -> Path:
    kernels = Path(root or platformdirs.user_cache_dir("adapterhub")) / "kernels"
    folder = kernels / source_digest(Path(__file__).parent)
    if not folder.is_dir():
        _remove_old(kernels)
        with suppress(OSError):  # numba compiles without a cache where it can't write
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def source_digest(folder: Path) -> str:
    """Return a short digest of the Python files below a folder."""
    digest = sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"{path.relative_to(folder)}\0".encode())
        digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _remove_old(kernels: Path) -> None:
    for old in kernels.glob("*"):
        with suppress(OSError):
            if time.time() - old.stat().st_mtime > _KEPT:
                shutil.rmtree(old, ignore_errors=True)
