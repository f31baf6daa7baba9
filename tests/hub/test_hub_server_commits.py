"""Reading the body of a commit, wherever the network cuts it."""

import base64
import json
import tempfile
from pathlib import Path

import pytest
from hub_server_helpers import SETTINGS, digest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterhub.http.errors import HTTPError
from adapterhub.hub.server.ndjson import CommitReader
from adapterhub.hub.server.records import Delete

TRICKY = 'says "content": "x" and \\"content\\" : "y"'


def body_of(contents, *, path_first, spaces):
    header = {"summary": TRICKY, "description": TRICKY, "parentCommit": "ab"}
    lines = [{"key": "header", "value": header}]
    for number, content in enumerate(contents):
        text = base64.b64encode(content).decode()
        value = {"path": f'{number}"content":".txt', "content": text, "encoding": "base64"}
        if not path_first:
            value = dict(sorted(value.items()))
        lines.append({"key": "file", "value": value})
        lines.append({"value": {"path": "old"}, "key": "deletedFile"})
    separators = (", ", ": ") if spaces else (",", ":")
    return b"\n\n".join(json.dumps(line, separators=separators).encode() for line in lines)


@settings(deadline=None)
@given(
    contents=st.lists(st.binary(max_size=200), max_size=4),
    cuts=st.lists(st.integers(0, 2000), max_size=20),
    path_first=st.booleans(),
    spaces=st.booleans(),
)
def test_a_commit_is_read_whatever_its_chunks(contents, cuts, path_first, spaces):
    body = body_of(contents, path_first=path_first, spaces=spaces)
    with tempfile.TemporaryDirectory() as folder:
        reader = CommitReader(Path(folder), SETTINGS)
        ends = [*sorted(min(cut, len(body)) for cut in cuts), len(body)]
        start = 0
        for end in ends:
            reader.feed(body[start:end])
            start = end
        commit = reader.finish()
        adds = [each for each in commit.operations if not isinstance(each, Delete)]
        assert (commit.title, commit.message, commit.parent) == (TRICKY, TRICKY, "ab")
        assert [add.staged.read_bytes() for add in adds] == contents
        assert [add.sha256 for add in adds] == [digest(content) for content in contents]
        assert [add.path for add in adds] == [
            f'{number}"content":".txt' for number in range(len(contents))
        ]
        assert len(commit.operations) == 2 * len(contents)


def read_whole(reader, body):
    try:
        reader.feed(body)
        return reader.finish()
    finally:
        reader.close()


@settings(deadline=None)
@given(body=st.binary(max_size=300))
def test_any_bytes_are_a_commit_or_refused(body):
    with tempfile.TemporaryDirectory() as folder:
        reader = CommitReader(Path(folder), SETTINGS)
        with pytest.raises(HTTPError):
            read_whole(reader, body)
