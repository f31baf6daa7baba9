"""Reading what clients send, never more than was allowed."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool

from adapterhub.http.bodies import stream_body
from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.blobstore import Staged

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

#: Bytes that are gathered before they are hashed and written in one go.
_GATHER = 1024 * 1024


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """Return a body that is a JSON object; an empty one is an empty object.

    Raises:
        HTTPError: when it is anything else.
    """
    content = b"".join([piece async for piece in stream_body(request, limit)])
    return parse_object(content) if content else {}


async def read_form(request: Request, limit: int) -> dict[str, list[str]]:
    """Return the lists of words of a body that is a form or a JSON object.

    Raises:
        HTTPError: when it is neither.
    """
    if request.headers.get("content-type", "").startswith("application/json"):
        body = await read_json(request, limit)
        return {key: _words(value) for key, value in body.items()}
    content = b"".join([piece async for piece in stream_body(request, limit)])
    try:
        return parse_qs(content.decode("utf-8"), max_num_fields=100_000)
    except ValueError as error:
        raise HTTPError(400, "is no form", place="body") from error


async def stage(request: Request, target: Path, limit: int) -> Staged:
    """Write a body to a new file, synced to disk, and return it with its digest.

    Raises:
        HTTPError: when it is longer than ``limit`` bytes.
    """
    writer = StagingFile(target)
    try:
        async for piece in stream_body(request, limit):
            if writer.gather(piece) >= _GATHER:
                await run_in_threadpool(writer.flush)
        return await run_in_threadpool(writer.finish)
    finally:
        writer.close()


class StagingFile:
    """A new read-only file that is hashed while it is written.

    Args:
        path: must not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = sha256()
        self._size = 0
        self._pieces: list[bytes] = []
        self._waiting = 0
        # the mode binds later openings only; this descriptor can write
        self._descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o444)
        self._open = True

    def gather(self, piece: bytes) -> int:
        """Keep a piece and return how many bytes wait to be written."""
        self._pieces.append(piece)
        self._waiting += len(piece)
        return self._waiting

    def flush(self) -> None:
        """Hash and write what waits."""
        content = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        self._size += len(content)
        self._digest.update(content)
        view = memoryview(content)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def finish(self) -> Staged:
        """Write the rest, sync the file to disk and return it."""
        self.flush()
        os.fsync(self._descriptor)
        self.close()
        return Staged(self.path, self._digest.hexdigest(), self._size)

    def close(self) -> None:
        """Close the file, whole or not."""
        if self._open:
            self._open = False
            os.close(self._descriptor)


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        HTTPError: when it is none.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise HTTPError(400, f"is no JSON: {error}", place="body") from error
    if not isinstance(found, dict):
        raise HTTPError(400, "must be a JSON object", place="body")
    return found


def text_of(body: dict[str, Any], key: str, default: str | None = None) -> str:
    """Return a text of a JSON object.

    Raises:
        HTTPError: when it is no text, or missing and without a default.
    """
    value = body.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not _is_text(value):
        raise HTTPError(400, "must be text", place=f"body: {key}")
    return value


def _is_text(value: str) -> bool:
    """Return whether text has no halves of characters, which JSON can hold and UTF-8 not."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str)]
