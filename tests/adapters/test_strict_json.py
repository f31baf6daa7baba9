"""JSON documents of others: what no program should have to read is refused in one place."""

import json

import pytest

from adapterhub.adapters.strict_json import (
    MAX_DEPTH,
    check_plain,
    parse_object,
    read_object,
    replace_unreadable,
)
from adapterhub.errors import ArtifactError


def refusal(content: bytes, **options: int) -> str:
    with pytest.raises(ArtifactError) as caught:
        parse_object(content, "a.json", **options)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    text.encode()
    return text


def nested(depth: int) -> bytes:
    return b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (rb'{"labels": ["ok", "\ud800"]}', "a.json: labels[1]: has a lone surrogate"),
        (rb'{"a": {"\udfff": 1}}', "a.json: a: has a lone surrogate"),
        (rb'{"a": "\u001b[2J"}', "a.json: a: has a control character at character 1"),
        (rb'{"a": "x\u0000"}', "a.json: a: has a control character at character 2"),
        (rb'{"a": "\u009b"}', "has a control character"),
        (b'{"a": "\x7f"}', "has a control character"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a.json: a: must be a finite number of at most 64 bits"),
        (b'{"a": -1' + b"0" * 9000 + b"}", "must be a finite number of at most 64 bits"),
        (b'{"a": [0, 9223372036854775808]}', "a.json: a[1]: must be a finite number"),
        (b'{"a": {"b": 1e400}}', "a.json: a.b: must be a finite number"),
        (b'{"a": NaN}', "NaN is not a number"),
        (b'{"a": -Infinity}', "Infinity is not a number"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (nested(MAX_DEPTH + 1), "nested deeper than 32 levels"),
        (nested(100_000), "recursion"),
        (b"[1]", "must be an object"),
        (b"\x80\x04", "is not valid JSON"),
    ],
)
def test_what_others_cannot_read_is_refused(content, said):
    assert said in refusal(content)


def test_a_document_over_its_limit_is_not_parsed():
    assert "larger than the limit of 8 bytes" in refusal(b'{"a": "bcd"}', limit=8)


def test_a_file_over_its_limit_is_not_read_whole(tmp_path):
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ArtifactError, match=r"large\.json: is larger than the limit of 16 bytes"):
        read_object(path, limit=16)


def test_plain_values_are_kept():
    document = {
        "text": "tab\t line\r\n é 😀 \u2028",
        "numbers": [2**63 - 1, -(2**63), 1.5e300],
        "deep": json.loads(nested(MAX_DEPTH - 1)),
    }
    assert parse_object(json.dumps(document).encode(), "a.json") == document


def test_values_of_a_program_are_checked_alike():
    with pytest.raises(ArtifactError, match=r"info: a\[0\]: has a lone surrogate"):
        check_plain({"a": ("\ud800",)}, "info")


def test_stored_values_are_made_readable():
    stored = {"labels": ["a\ud800", "b\x1b"], "metrics": {"x": 10**400, "y": 0.5}, "n": [1e999, 2]}
    readable = replace_unreadable(stored)
    assert readable == {
        "labels": ["a\ufffd", "b\ufffd"],
        "metrics": {"y": 0.5},
        "n": [None, 2],
    }
    check_plain(readable, "readable")
