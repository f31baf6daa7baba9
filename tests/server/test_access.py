"""Keys: what is kept of them, who they let in, and the commands around them."""

import json
import os
import sqlite3

import pytest

from adapterhub.access import Caller, open_keys
from adapterhub.errors import Forbidden, NotFoundError, RefError, SettingsError, Unauthorized
from adapterhub.registry import Registry
from adapterhub.server.access import Access
from adapterhub.server.settings import ServerSettings


@pytest.fixture
def keys(tmp_path):
    return open_keys(Registry(tmp_path))


def gate(tmp_path, **settings):
    return Access(open_keys(Registry(tmp_path)), ServerSettings(**settings))


def shown(key):
    return {"authorization": f"Bearer {key}"}


def test_only_the_hash_of_a_key_is_stored(keys):
    key = keys.create("web")
    assert key.startswith("ahk_")
    for file in keys.path.parent.glob("keys.sqlite3*"):
        assert key.encode() not in file.read_bytes()
        assert key.removeprefix("ahk_").encode() not in file.read_bytes()


def test_a_key_gives_its_role_adapters_and_limits(keys, tmp_path):
    key = keys.create("web", "use", adapters=["b", "a@prod"], rate=60, concurrency=4)
    (info,) = keys.list()
    caller = gate(tmp_path).caller(shown(key))
    assert caller == Caller(info.id, "use", ("a@prod", "b"), rate=60, concurrency=4, name="web")
    assert info.caller == caller
    assert info.name == "web"


@pytest.mark.parametrize("header", ["", "Bearer ahk_wrong", "Bearer", "Basic YTpi", "Bearer sk-1"])
def test_once_there_is_a_key_it_is_required(keys, tmp_path, header):
    keys.create("web")
    with pytest.raises(Unauthorized):
        gate(tmp_path).caller({"authorization": header} if header else {})


def test_created_and_removed_keys_take_effect_at_once(keys, tmp_path):
    access = gate(tmp_path)
    # none yet
    assert access.caller({}) == Caller(None, "manage")
    first, second = keys.create("one"), keys.create("two")
    ids = {access.caller(shown(key)).key_id for key in (first, second)}
    assert ids == {info.id for info in keys.list()}
    for info in keys.list():
        keys.remove(info.id)
    for headers in ({}, shown(first), shown(second)):
        # nothing opens that was closed
        with pytest.raises(Unauthorized):
            access.caller(headers)


def test_a_change_is_noticed_after_a_long_time_without_one(keys, tmp_path):
    access = gate(tmp_path)
    key = keys.create("web")
    for file in keys.path.parent.glob("keys.sqlite3*"):
        os.utime(file, (1, 1))
    assert access.caller(shown(key)).role == "use"
    keys.remove(keys.list()[0].id)
    with pytest.raises(Unauthorized):
        access.caller(shown(key))


def test_an_unchanged_file_is_not_read(keys, tmp_path, monkeypatch):
    key = keys.create("web")
    for file in keys.path.parent.glob("keys.sqlite3*"):
        os.utime(file, (1, 1))
    access = gate(tmp_path)
    access.caller(shown(key))
    monkeypatch.setattr(sqlite3, "connect", None)
    assert access.caller(shown(key)).role == "use"
    with pytest.raises(Unauthorized):
        access.caller(shown("ahk_wrong"))


def test_other_addresses_than_loopback_require_a_key_or_anonymous_access(keys, tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", "", "gpu-box"):
        with pytest.raises(SettingsError, match="there is no API key"):
            gate(tmp_path, host=host)
    assert gate(tmp_path, host="0.0.0.0", anonymous_access="use").caller({}) == Caller(None, "use")
    with pytest.raises(Unauthorized):
        gate(tmp_path, host="0.0.0.0", anonymous_access="no").caller({})
    keys.create("web")
    with pytest.raises(Unauthorized):
        gate(tmp_path, host="0.0.0.0").caller({})


def test_removing_the_last_key_does_not_open_a_server(keys, tmp_path):
    keys.create("web")
    access = gate(tmp_path, host="0.0.0.0")
    keys.remove(keys.list()[0].id)
    with pytest.raises(Unauthorized):
        access.caller({})


def test_the_key_of_the_settings_manages_and_is_required(tmp_path):
    access = gate(tmp_path, host="0.0.0.0", api_key="a-secret-of-16-and-more")
    assert access.caller(shown("a-secret-of-16-and-more")).role == "manage"
    with pytest.raises(Unauthorized):
        access.caller({})
    with pytest.raises(Unauthorized):
        gate(tmp_path, api_key="a-secret-of-16-and-more").caller({})


def test_without_a_required_key_clients_may_send_any_word(tmp_path):
    access = gate(tmp_path)
    assert access.caller(shown("sk-unused")).key_id is None
    with pytest.raises(Unauthorized, match="is unknown"):
        access.caller(shown("ahk_taken-back"))


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8000"},
        {"host": "127.0.0.1:8000", "origin": "https://evil.example"},
        {"host": "127.0.0.1:8000", "origin": "null"},
        {"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9999"},
        {"host": "[::1", "origin": "http://["},
    ],
)
def test_pages_of_other_sites_do_not_use_a_server_on_loopback(tmp_path, keys, headers):
    access = gate(tmp_path)
    with pytest.raises(Forbidden):
        access.caller(headers)
    # who shows a key is not a page that was lured here
    key = keys.create("web")
    assert access.caller({**headers, **shown(key)}).key_id


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"host": "127.0.0.1:8000"},
        {"host": "localhost", "origin": "http://localhost"},
        {"host": "[::1]:8000", "origin": "http://[::1]:8000"},
        {"host": "testserver"},
    ],
)
def test_local_programs_need_no_key_on_loopback(tmp_path, headers):
    assert gate(tmp_path).caller(headers).role == "manage"


@pytest.mark.parametrize(
    ("listed", "ref", "allowed"),
    [
        (None, "any@3", True),
        (("a",), "a", True),
        (("a",), "a@prod", True),
        (("a",), "a@sha256:0123456789", True),
        (("a",), "ab", False),
        (("a@prod",), "a@prod", True),
        (("a@prod",), "a", False),
        (("a@prod",), "a@sha256:0123456789", False),
        (("team/*",), "team/a@3", True),
        (("team/*",), "team", False),
        (("team/*",), "teams/a", False),
        (("team/*",), "team/a/b", False),
        (("a",), "hf://a/b", False),
    ],
)
def test_which_adapters_a_list_allows(listed, ref, allowed, keys):
    caller = Caller("id", "use", listed)
    access = Access(keys, ServerSettings())
    assert caller.allows(ref) is allowed
    if allowed:
        access.check_adapters(caller, [ref])
    else:
        with pytest.raises(Forbidden, match=r"is not allowed with this API key"):
            access.check_adapters(caller, [*(listed or ()), ref])


def test_managing_requires_the_role(tmp_path):
    access = gate(tmp_path)
    access.require_manage(Caller("id", "manage"))
    with pytest.raises(Forbidden, match="role manage"):
        access.require_manage(Caller("id", "use"))
    with pytest.raises(Unauthorized, match="role manage"):
        access.require_manage(Caller(None, "use"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"adapters": []}, SettingsError),
        ({"adapters": ["a b"]}, RefError),
        ({"adapters": ["*"]}, RefError),
        ({"adapters": ["a", ""]}, RefError),
        ({"adapters": ["te*m"]}, RefError),
        ({"rate": 0}, SettingsError),
        ({"concurrency": 10**7}, SettingsError),
    ],
)
def test_invalid_keys_are_rejected(keys, options, error):
    with pytest.raises(error):
        keys.create("web", **options)
    assert keys.list() == ()


def test_commands_create_list_and_remove_a_key(command, tmp_path):
    made = json.loads(
        command(
            "key", "create", "web", "--role", "manage", "--adapters", "a@prod,team/*",
            "--rate", "60", "--concurrency", "4", "--json",
        ).stdout
    )  # fmt: skip
    assert made["key"].startswith("ahk_")
    (listed,) = json.loads(command("key", "list", "--json").stdout)
    assert {name: listed[name] for name in ("id", "role", "adapters", "rate", "concurrency")} == {
        "id": made["id"],
        "role": "manage",
        "adapters": ["a@prod", "team/*"],
        "rate": 60,
        "concurrency": 4,
    }
    table = command("key", "list").stdout
    assert made["id"] in table
    assert made["key"] not in table
    assert json.loads(command("key", "rm", made["id"], "--json").stdout) == {"removed": made["id"]}
    assert "no keys" in command("key", "list").stdout


def test_standard_output_has_only_the_key(command):
    result = command("key", "create", "web")
    assert len(result.stdout.split()) == 1
    assert "not shown again" in result.stderr


def test_an_unknown_role_and_an_unknown_id_are_errors(command):
    result = command("key", "create", "x", "--role", "manager")
    assert result.exit_code == 2
    assert "Did you mean 'manage'" in result.stderr
    assert command("key", "rm", "0123").exit_code == 4


def test_an_unknown_id_is_an_error(keys):
    with pytest.raises(NotFoundError):
        keys.remove("0123456789ab")
