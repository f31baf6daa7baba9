"""References: what parses comes back as it was, and every fault says what is wrong."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.errors import AdapterHubError, RefError
from adapterhub.refs import AdapterRef, check_name, parse_ref

DIGEST = "sha256:" + "0123456789abcdef" * 4

first = st.sampled_from(string.ascii_lowercase + string.digits)
rest = st.text(string.ascii_lowercase + string.digits + "._-", max_size=95)
parts = st.builds(str.__add__, first, rest).filter(lambda part: ".." not in part)
names = st.one_of(parts, st.builds("{}/{}".format, parts, parts))
aliases = parts.filter(lambda part: part[0].isalpha() and part != "sha256")
digests = st.text("0123456789abcdef", min_size=8, max_size=64).map("sha256:{}".format)
refs = st.one_of(
    st.builds(AdapterRef, names),
    st.builds(AdapterRef, names, version=st.integers(1, 999_999_999)),
    st.builds(AdapterRef, names, alias=aliases),
    st.builds(AdapterRef, names, digest=digests),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("topics", AdapterRef("topics")),
        ("topics@3", AdapterRef("topics", version=3)),
        ("topics@latest", AdapterRef("topics", alias="latest")),
        ("topics@prod", AdapterRef("topics", alias="prod")),
        (f"topics@{DIGEST}", AdapterRef("topics", digest=DIGEST)),
        ("topics@sha256:01234567", AdapterRef("topics", digest="sha256:01234567")),
        ("team-a/topics.v2@3", AdapterRef("team-a/topics.v2", version=3)),
        ("0x/9@v3", AdapterRef("0x/9", alias="v3")),
    ],
)
def test_each_form_is_read(text, expected):
    assert parse_ref(text) == expected
    assert str(expected) == text


def assert_read_or_refused(text):
    try:
        ref = parse_ref(text)
    except RefError as error:
        message = str(error)
    else:
        assert str(ref) == text
        return
    assert len(message.splitlines()) == 1


@given(refs)
def test_text_and_reference_go_round(ref):
    assert parse_ref(str(ref)) == ref


@given(st.text())
def test_any_text_is_read_back_as_it_is_or_refused(text):
    assert_read_or_refused(text)


@given(st.builds("{}@{}".format, names, st.text()))
def test_any_selector_is_read_back_as_it_is_or_refused(text):
    assert_read_or_refused(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("@3", "is empty"),
        ("topics@", "nothing after '@'"),
        ("topics@1@2", "more than one '@'"),
        ("a/b/c", "more than one '/'"),
        ("/topics", "empty part"),
        ("team/", "empty part"),
        ("..", "contains '..'"),
        ("team/..", "contains '..'"),
        ("a..b", "contains '..'"),
        ("to pics", "space or a control"),
        ("topics\n", "space or a control"),
        ("topics\x00", "space or a control"),
        ("top\u202eics", "space or a control"),
        ("Topics", "Did you mean 'topics'?"),
        ("-topics", "lower-case letters"),
        (".hidden", "lower-case letters"),
        ("thèmes", "lower-case letters"),
        ("a" * 97, "longer than 96"),
        ("team/" + "a" * 97, "longer than 96"),
        ("topics@0", "looks like a number"),
        ("topics@-1", "looks like a number"),
        ("topics@03", "looks like a number"),
        ("topics@1.5", "looks like a number"),
        ("topics@٣", "is not an alias"),
        ("topics@" + "9" * 30, "at most 999999999"),
        ("topics@0123456789abcdef", "a digest with 'sha256:'"),
        ("topics@Prod", "Did you mean 'prod'?"),
        ("topics@pr od", "is not an alias"),
        ("topics@a..b", "is not an alias"),
        ("topics@" + "a" * 97, "longer than 96"),
        ("topics@sha256", "has no digest"),
        ("topics@sha256:", "8 to 64 hex digits, found 0"),
        ("topics@sha256:0123456", "8 to 64 hex digits, found 7"),
        (f"topics@{DIGEST}0", "8 to 64 hex digits, found 65"),
        ("topics@sha256:0123456G", "lower-case hex digits"),
        ("topics@sha256:ABCDEF01", "lower-case hex digits"),
    ],
)
def test_each_fault_is_named(text, message):
    with pytest.raises(RefError) as caught:
        parse_ref(text)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_longest_parts_are_accepted():
    check_name("a" * 96 + "/" + "b" * 96)


def test_two_selectors_exclude_each_other():
    with pytest.raises(RefError, match="exclude each other"):
        AdapterRef("topics", version=3, alias="prod")


@pytest.mark.parametrize(
    "fields",
    [{"version": 0}, {"version": True}, {"version": 10**9}, {"alias": ""}, {"digest": "01234567"}],
)
def test_a_reference_cannot_be_built_that_would_not_parse(fields):
    with pytest.raises(AdapterHubError):
        AdapterRef("topics", **fields)
