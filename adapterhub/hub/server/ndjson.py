"""The body of a commit: one JSON object per line, with files in base64.

The content of a file is decoded to disk while its line is read, since it may be large; the line is
parsed as JSON without it.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from adapterhub.http.errors import HTTPError, too_large
from adapterhub.hub.server.blobstore import StagingFile
from adapterhub.hub.server.records import Add, Commit, Delete
from adapterhub.hub.server.requests import parse_object, text_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from adapterhub.hub.server.blobstore import Staged
    from adapterhub.hub.server.settings import HubSettings

#: Matches a key only, since quotes inside a JSON text are escaped.
_CONTENT = re.compile(rb'"content"\s*:\s*"')
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST_KEY = 64


class CommitReader:
    """Incremental parser of the body of a commit."""

    def __init__(self, folder: Path, settings: HubSettings) -> None:
        self._folder = folder
        self._settings = settings
        self._max_operations = min(settings.max_operations, settings.max_files)
        self._line = bytearray()
        self._files = 0
        self._content: _Content | None = None
        self._staged: Staged | None = None
        self._header: dict[str, Any] | None = None
        self._operations: list[Add | Delete] = []

    def feed(self, chunk: bytes) -> None:
        """Parse the next chunk."""
        at = 0
        while at < len(chunk):
            if self._content is None:
                at = self._parse_text(chunk, at)
            else:
                at = self._parse_content(self._content, chunk, at)

    def finish(self) -> Commit:
        """Return the commit at the end of the body."""
        if self._content is not None:
            raise HTTPError(400, "ends in the middle of a file", place="commit")
        self._end_line()
        if self._header is None:
            raise HTTPError(400, "has no header", place="commit")
        return Commit(
            title=text_of(self._header, "summary", ""),
            message=text_of(self._header, "description", ""),
            parent=text_of(self._header, "parentCommit", "") or None,
            operations=tuple(self._operations),
        )

    def close(self) -> None:
        """Close the file that is being written."""
        if self._content is not None:
            self._content.close()

    def _parse_text(self, chunk: bytes, at: int) -> int:
        """Parse up to the end of a line or the beginning of a file; return the next position."""
        end = chunk.find(b"\n", at)
        stop = len(chunk) if end < 0 else end + 1
        before = len(self._line)
        self._line += chunk[at:stop]
        start = max(0, before - _LONGEST_KEY)
        found = _CONTENT.search(self._line, start) if self._staged is None else None
        if found:
            del self._line[found.end() :]
            self._content = _Content(self._folder / f"file{self._files}", self._settings.max_inline)
            self._files += 1
            return at + found.end() - before
        if len(self._line) > self._settings.max_json:
            raise too_large("a line of the commit", self._settings.max_json)
        if end >= 0:
            self._end_line()
        return stop

    def _parse_content(self, content: _Content, chunk: bytes, at: int) -> int:
        """Parse up to the closing quote of a file; return its position."""
        end = chunk.find(b'"', at)
        content.feed(chunk[at:] if end < 0 else chunk[at:end])
        if end < 0:
            return len(chunk)
        self._staged = content.finish()
        self._content = None
        return end

    def _end_line(self) -> None:
        line = bytes(self._line).strip()
        staged = self._staged
        self._line.clear()
        self._staged = None
        if not line:
            return
        entry = parse_object(line)
        value = entry.get("value")
        if not isinstance(value, dict):
            raise HTTPError(400, "has no value", place="commit")
        key = text_of(entry, "key")
        if key == "header":
            self._header = value
        else:
            self._operations.append(_operation(key, value, staged))
        if len(self._operations) > self._max_operations:
            raise HTTPError(413, f"has more than {self._max_operations} operations")


class _Content:
    """Base64 text that is decoded to a file."""

    def __init__(self, path: Path, limit: int) -> None:
        self._file = StagingFile(path)
        self._limit = limit
        self._rest = b""
        self._size = 0
        self._padded = False

    def feed(self, chunk: bytes) -> None:
        text = self._rest + chunk
        whole = len(text) - len(text) % 4
        self._rest = text[whole:]
        if not whole:
            return
        try:
            decoded = base64.b64decode(text[:whole], validate=True)
        except binascii.Error as error:
            raise HTTPError(
                400, f"contains a file that is not base64: {error}", place="commit"
            ) from error
        if self._padded:
            raise HTTPError(400, "contains a file with data after its end", place="commit")
        self._padded = text[whole - 1 : whole] == b"="
        self._size += len(decoded)
        if self._size > self._limit:
            raise too_large("a file inside a commit", self._limit)
        self._file.buffer(decoded)
        self._file.flush()

    def finish(self) -> Staged:
        if self._rest:
            raise HTTPError(400, "contains a file that is not base64", place="commit")
        return self._file.finish()

    def close(self) -> None:
        self._file.close()


async def read_commit(body: AsyncIterator[bytes], folder: Path, settings: HubSettings) -> Commit:
    """Read a commit and write the files in it to ``folder``."""
    reader = CommitReader(folder, settings)
    try:
        async for chunk in body:
            await run_in_threadpool(reader.feed, chunk)
        return await run_in_threadpool(reader.finish)
    finally:
        reader.close()


def _operation(key: str, value: dict[str, Any], staged: Staged | None) -> Add | Delete:
    path = text_of(value, "path")
    if key == "file":
        if text_of(value, "encoding", "base64") != "base64" or staged is None:
            raise HTTPError(400, "must have its content in base64", place=path)
        return Add(path, staged.sha256, staged.size, staged.path)
    if key == "lfsFile":
        oid = text_of(value, "oid")
        size = value.get("size")
        if not _SHA256.fullmatch(oid) or not (size is None or type(size) is int):
            raise HTTPError(400, "has no sha256 and size", place=path)
        return Add(path, oid, size)
    if key in ("deletedFile", "deletedFolder"):
        return Delete(path, folder=key == "deletedFolder")
    raise HTTPError(400, f"has an unknown operation {key!r}", place=path)
