"""Tool calls in generated text, and blends in requests."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import RefError
from adapterhub.refs import parse_blend
from adapterhub.server.tool_calls import ToolCallParser

CALL = '<tool_call>{"name": "look", "arguments": {"at": 1}}</tool_call>'


@given(st.lists(st.integers(0, 200), max_size=20), st.sampled_from(["", "so ", "a < b "]))
def test_calls_are_found_in_any_chunks(cuts, before):
    whole = f"{before}{CALL} and {CALL}."
    places = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    found = ToolCallParser()
    text = "".join(found.push(whole[a:b]) for a, b in itertools.pairwise(places))
    text += found.finish()
    assert text == f"{before} and ."
    assert [call["function"]["name"] for call in found.calls] == ["look", "look"]


@given(st.text(alphabet="<tol_ca>{}x", max_size=40), st.integers(0, 40))
def test_text_without_a_call_is_returned_completely(text, cut):
    found = ToolCallParser()
    assert found.push(text[:cut]) + found.push(text[cut:]) + found.finish() == text
    assert not found.calls


def test_an_invalid_required_call_stays_text():
    found = ToolCallParser(required=True)
    assert found.push("no ") == ""
    assert found.push("call") + found.finish() == "no call"
    found = ToolCallParser(required=True)
    found.push('{"name": "look", "arguments": {}}')
    assert found.finish() == ""
    assert found.calls[0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", (("a", 1.0),)),
        ("a@prod*0.7+b*0.3", (("a@prod", 0.7), ("b", 0.3))),
        (" a * -1e-1 + o/b@3 ", (("a", -0.1), ("o/b@3", 1.0))),
    ],
)
def test_a_blend_is_parsed(text, expected):
    assert parse_blend(text) == expected


@pytest.mark.parametrize(
    "text", ["a*", "a*x", "a*nan", "a*inf", "a*1e9", "a+", "+", "a*1*2", "a*1_0"]
)
def test_an_invalid_blend_is_rejected(text):
    with pytest.raises(RefError):
        parse_blend(text)


def test_a_blend_of_too_many_adapters_is_rejected():
    with pytest.raises(RefError, match="more than 16"):
        parse_blend("+".join("abcdefghijklmnopq"))
