"""API keys: scopes for the Hub endpoint, and databases that older versions wrote."""

import json
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapterhub.access import Caller, Scope, open_keys, parse_scope
from adapterhub.access.keys import HUB_FILE, KEY_SCHEMA, KEYS_FILE, bearer_token, hash_key
from adapterhub.errors import RefError, SettingsError
from adapterhub.hub.server.schema import HUB_SCHEMA
from adapterhub.registry import Registry
from adapterhub.registry.database import Database


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path)


def write_old_keys(registry):
    """Write the database of keys as it was before keys had scopes."""
    database = Database(registry.folder / KEYS_FILE, KEY_SCHEMA[:1])
    database.prepare()
    rows = [
        (hash_key("ahk_web"), "web", "use", '["a@prod", "team/*"]', 60, 4, "2026-01-01T00:00:00"),
        (hash_key("ahk_ops"), "ops", "manage", None, None, None, "2026-01-02T00:00:00"),
    ]
    with database.writing() as db:
        db.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)", rows)


def write_old_tokens(registry, *tokens):
    """Write tokens into the index of the Hub endpoint, where they were before."""
    database = Database(registry.folder / HUB_FILE, HUB_SCHEMA)
    database.prepare()
    with database.writing() as db:
        for token, user, *scopes in tokens:
            row = (hash_key(token), user, "2026-01-03T00:00:00.000000Z")
            db.execute("INSERT INTO tokens (hash, user, created) VALUES (?, ?, ?)", row)
            for scope in scopes:
                db.execute("INSERT INTO scopes VALUES (?, ?, ?)", (row[0], *scope.split(":")))


def test_keys_of_the_first_schema_keep_working(registry):
    write_old_keys(registry)
    keys = open_keys(registry)
    assert [key.name for key in keys.list()] == ["web", "ops"]
    web = keys.find("ahk_web")
    expected = Caller(web.key_id, "use", ("a@prod", "team/*"), rate=60, concurrency=4, name="web")
    assert web == expected
    assert keys.find("ahk_ops").role == "manage"
    hub_only = keys.create("ada", None, scopes=[Scope("write", "team")])
    assert keys.find(hub_only).may("read", "team")


def test_tokens_of_the_hub_index_move_once(registry):
    write_old_keys(registry)
    write_old_tokens(
        registry, ("ah_one", "ada", "read:*", "write:team"), ("ah_two", "bo", "read:bo")
    )
    keys = open_keys(registry)
    ada = keys.find("ah_one")
    assert (ada.name, ada.role) == ("ada", None)
    assert ada.scopes == {Scope("read", "*"), Scope("write", "team")}
    assert not keys.find("ah_two").may("write", "bo")
    keys.remove(ada.key_id)
    # a token that was moved and revoked does not come back
    again = open_keys(registry)
    assert again.find("ah_one") is None
    assert {key.name for key in again.list()} == {"web", "ops", "bo"}


def test_tokens_that_an_older_version_adds_later_move_too(registry):
    open_keys(registry)
    write_old_tokens(registry, ("ah_late", "ada", "write:ada"))
    assert open_keys(registry).find("ah_late").may("write", "ada")


def test_a_key_without_a_role_is_no_server_key(registry):
    keys = open_keys(registry)
    keys.create("ada", None, scopes=[Scope("read", "*")])
    assert not keys.has_server_keys()
    keys.create("web")
    assert keys.has_server_keys()


def test_the_hub_index_of_another_kind_is_left_alone(registry):
    with sqlite3.connect(registry.folder / HUB_FILE) as db:
        db.execute("CREATE TABLE other (a)")
    assert open_keys(registry).list() == ()


@pytest.mark.parametrize(
    ("name", "role", "scopes", "error"),
    [
        ("ada", None, (), SettingsError),
        ("team/ada", None, ("read:*",), RefError),
        ("ada", None, ("read:a/b",), RefError),
        ("ada", None, ("read:../x",), RefError),
    ],
)
def test_a_key_that_allows_nothing_or_names_no_owner_is_refused(
    registry, name, role, scopes, error
):
    keys = open_keys(registry)
    with pytest.raises(error):
        keys.create(name, role, scopes=map(parse_scope, scopes))
    assert keys.list() == ()


@pytest.mark.parametrize("text", ["", "read", "read:", "admin:*", ":ada"])
def test_what_is_no_scope_is_refused(text):
    with pytest.raises(SettingsError):
        parse_scope(text)


@given(st.text())
def test_only_the_bearer_scheme_carries_a_key(text):
    assert bearer_token(f"Bearer {text}") == text.strip()
    assert bearer_token(f"bEARER {text}") == text.strip()
    assert bearer_token(f"Basic {text}") == ""


def test_keys_of_the_hub_endpoint_are_shown_once_and_listed_by_their_scopes(command):
    scopes = ("--scope", "read:*", "--scope", "write:ada")
    made = json.loads(command("key", "create", "ada", *scopes, "--json").stdout)
    listed = command("key", "list", "--json")
    (info,) = json.loads(listed.stdout)
    assert (info["name"], info["role"], info["scopes"]) == ("ada", None, ["read:*", "write:ada"])
    assert made["key"] not in listed.stdout
    stored = (Registry().folder / KEYS_FILE).read_bytes()
    assert made["key"].encode() not in stored
    assert "write:ada" in command("key", "list").stdout
    assert command("key", "rm", info["id"]).exit_code == 0
    assert json.loads(command("key", "list", "--json").stdout) == []
    assert b"is not a scope" in command("key", "create", "ada", "--scope", "all").stderr_bytes


def test_one_key_for_the_server_and_the_hub_endpoint(command):
    command("key", "create", "ada", "--role", "use", "--scope", "read:*")
    (key,) = open_keys(Registry()).list()
    assert key.caller.role == "use"
    assert key.caller.may("read", "anyone")
    gone = command("hub", "token", "add", "ada", "read:*")
    assert gone.exit_code != 0
    assert b"adapterhub key create NAME --scope" in gone.stderr_bytes
