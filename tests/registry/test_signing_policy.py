"""The rule that unsigned is not loaded, whose keys count, and the commands."""

import json
import re
import stat
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from registry_helpers import WEIGHTS
from signature_fixtures import ada, eve, plain_environment, put_signed, signature, version
from signing_helpers import key_pair
from toy_fixtures import command

import adapterhub
from adapterhub.errors import (
    ArtifactError,
    MissingExtraError,
    NotFoundError,
    RefError,
    RegistryError,
    SignatureError,
)
from adapterhub.registry import Registry
from adapterhub.registry.policy import trusted_folder
from adapterhub.registry.sigstore import sign
from adapterhub.workflows.open_adapter import open_adapter
from adapterhub.workflows.promote import promote

__all__ = ["ada", "command", "eve", "plain_environment", "signature", "version"]


def test_unsigned_is_loaded_until_the_rule_is_on(registry, version, signature, ada):
    assert trusted_folder(registry, version) == registry.materialize(version)
    registry.set_requires_signed(True)
    with pytest.raises(SignatureError, match=r"is not signed.*adapterhub sign topics@1"):
        trusted_folder(registry, version)
    registry.add_signature("topics", signature)
    with pytest.raises(SignatureError, match=f"no trusted key, only by {ada.key[:16]}"):
        trusted_folder(registry, version)
    registry.trust("ada", ada.pem)
    assert trusted_folder(registry, version) == registry.materialize(version)
    registry.distrust("ada")
    with pytest.raises(SignatureError, match="no trusted key"):
        trusted_folder(registry, version)
    registry.set_requires_signed(False)
    assert trusted_folder(registry, version) == registry.materialize(version)


def test_a_wrong_signature_that_came_before_its_key_does_not_count(registry, artifact, ada, eve):
    version = registry.put(artifact("first"), "topics")
    other = put_signed(registry, artifact("second"), ada, "other")
    (elsewhere,) = registry.signatures(other)
    registry.add_signature("topics", elsewhere.content)
    registry.trust("ada", ada.pem)
    registry.set_requires_signed(True)
    with pytest.raises(SignatureError, match="the signature by ada is invalid"):
        trusted_folder(registry, version)
    # one that holds is enough
    registry.trust("eve", eve.pem)
    registry.add_signature("topics", sign(registry.materialize(version), eve.private))
    assert trusted_folder(registry, version)


@pytest.mark.parametrize(
    ("value", "required"),
    [("1", True), ("true", True), ("yes", True), ("nonsense", True), ("0", False), ("off", False)],
)
def test_the_environment_switches_it_on(registry, version, monkeypatch, value, required):
    monkeypatch.setenv("ADAPTERHUB_REQUIRE_SIGNED", value)
    assert registry.requires_signed() is required
    if required:
        with pytest.raises(SignatureError, match="unset ADAPTERHUB_REQUIRE_SIGNED"):
            trusted_folder(registry, version)
    registry.set_requires_signed(True)
    assert registry.requires_signed()


def test_nothing_unsigned_passes_where_adapters_are_loaded(registry, version, signature, ada):
    registry.set_requires_signed(True)
    with pytest.raises(SignatureError, match="is not signed"):
        open_adapter(registry, "topics")
    verdict = promote(registry, "topics", "prod")
    assert (verdict.passed, verdict.move) == (False, None)
    assert "is not signed" in verdict.checks[0].found
    registry.add_signature("topics", signature)
    registry.trust("ada", ada.pem)
    # past the rule, the next check finds that the backbone of these weights is made up
    with pytest.raises(ArtifactError, match="names no backbone in its recipe"):
        open_adapter(registry, "topics")
    assert "is not signed" not in str(promote(registry, "topics", "prod").checks)


def test_no_module_reads_an_artifact_past_the_rule():
    root = Path(adapterhub.__file__).parent
    past = re.compile(r"read_artifact\([^)]*materialize")
    assert [path for path in root.rglob("*.py") if past.search(path.read_text())] == []


@pytest.mark.parametrize("package", ["model_signing", "cryptography"])
def test_without_the_extra_nothing_passes_silently(registry, artifact, ada, monkeypatch, package):
    version = put_signed(registry, artifact(), ada)
    registry.trust("ada", ada.pem)
    registry.set_requires_signed(True)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"adapterhub\[sign\]"):
        trusted_folder(registry, version)


def test_a_name_means_one_key_and_a_key_has_one_name(registry, ada, eve):
    assert registry.trust("ada", ada.pem) == registry.trust("ada", ada.pem)
    with pytest.raises(RegistryError, match="the name of another key"):
        registry.trust("ada", eve.pem)
    with pytest.raises(RegistryError, match="trusted already, as ada"):
        registry.trust("lovelace", ada.pem)
    with pytest.raises(RefError, match="not a name of a key"):
        registry.trust("../x\n", eve.pem)
    with pytest.raises(SignatureError, match="is a private key"):
        registry.trust("eve", eve.private.read_bytes())
    with pytest.raises(NotFoundError, match="Did you mean 'ada'"):
        registry.distrust("adda")
    assert [key.name for key in registry.trusted_keys()] == ["ada"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def secrets_of(path):
    lines = path.read_text().splitlines()
    return [line.encode() for line in lines if line and "-----" not in line]


@pytest.mark.parametrize("password", ["", "correct horse"])
def test_from_a_new_key_to_a_signed_adapter(
    command, home, registry, version, monkeypatch, password
):
    if password:
        monkeypatch.setenv("ADAPTERHUB_KEY_PASSWORD", password)
    told = [command("trust", "new", "ada", "--private", "ada.key", "--public", "ada.pem")]
    assert stat.S_IMODE(Path("ada.key").stat().st_mode) == 0o600
    assert ("not encrypted" in told[0].stdout) is not bool(password)
    told += [command("trust", "require", "on"), command("predict", "topics", "text")]
    assert told[-1].exit_code == 9
    assert b"is not signed" in told[-1].stderr_bytes
    assert command("verify", "topics").exit_code == 9
    told += [command("sign", "topics", "--key", "ada.key")]
    assert "signed topics@1" in told[-1].stdout
    told += [command("verify", "topics", "--key", "ada.pem"), command("verify", "topics")]
    assert all("no damage found; signed by ada" in result.stdout for result in told[-2:])
    told += [command("verify"), command("trust", "list"), command("trust", "list", "--json")]
    assert "1 versions, no damage found" in told[-3].stdout
    listed = json.loads(told[-1].stdout)
    assert (listed["require"], [key["name"] for key in listed["keys"]]) == (True, ["ada"])
    told += [command("trust", "require", "off"), command("trust", "rm", "ada")]
    assert "no trusted key" in command("verify", "topics").stdout
    # the private key is in its file and nowhere else
    stored = b"".join(p.read_bytes() for p in (home / "home").rglob("*") if p.is_file())
    shown = b"".join(r.stdout.encode() + (r.stderr_bytes or b"") for r in told)
    for secret in [*secrets_of(Path("ada.key")), *filter(None, [password.encode()])]:
        assert secret not in stored
        assert secret not in shown


def test_programs_get_one_document(command, home, registry, version, ada, eve):
    def document(*words):
        result = command(*words, "--json")
        assert result.exit_code == 0
        return json.loads(result.stdout)

    made = document("trust", "new", "new", "--private", "n.key", "--public", "n.pem")
    assert (made["name"], made["private"], made["public"]) == ("new", "n.key", "n.pem")
    assert document("trust", "add", "ada", str(ada.public))["key"] == ada.key
    signed = document("sign", "topics", "--key", str(ada.private))
    assert signed == {"ref": "topics@1", "digest": version.digest, "key": ada.key}
    expected = {"ref": "topics@1", "digest": version.digest}
    assert document("verify", "topics") == {
        **expected,
        "signed_by": [{"name": "ada", "key": ada.key}],
    }
    checked = document("verify", "topics", "--key", str(ada.public))
    assert checked["signed_by"] == [{"name": str(ada.public), "key": ada.key}]
    assert document("verify") == []
    assert document("trust", "require", "on") == {"require": True}
    assert document("trust", "require", "off") == {"require": False}
    assert document("trust", "rm", "ada")["key"] == ada.key
    refused = command("verify", "topics", "--key", str(eve.public), "--json")
    assert (refused.exit_code, refused.stdout) == (9, "")


def test_faults_of_signing_say_what_to_do(command, home, registry, version, ada, eve, tmp_path):
    key_pair(tmp_path, "locked", "password")
    command("trust", "add", "ada", str(ada.public))
    for words, code, said in (
        (("verify", "topics", "--key", str(ada.public)), 9, b"has no signature by the key"),
        (("verify", "topics", "--key", "absent.pem"), 9, b"cannot be read"),
        (("sign", "topics", "--key", str(ada.public)), 9, b"cannot be used to sign"),
        (("sign", "topics", "--key", "locked.pem"), 9, b"Set ADAPTERHUB_KEY_PASSWORD"),
        (("sign", "absent", "--key", str(ada.private)), 4, b"no adapter with this name"),
        (("trust", "add", "eve", str(eve.private)), 9, b"is a private key"),
        (("trust", "add", "no name", str(eve.public)), 2, b"not a name of a key"),
        (("trust", "rm", "eve"), 4, b"no trusted key has this name"),
        (("trust", "new", "ada", "--private", "a", "--public", "b"), 1, b"name of another key"),
        (("trust", "new", "x", "--private", str(ada.private), "--public", "b"), 9, b"exists"),
    ):
        result = command(*words)
        assert said in result.stderr_bytes, words
        assert result.exit_code == code, words
    assert not Path("a").exists()
    assert not Path("b").exists()
    assert command("verify", "--key", str(ada.public)).exit_code == 2
    assert command("trust", "require", "maybe").exit_code == 2


def test_damage_of_a_signed_version_is_damage_first(command, home, registry, artifact, ada):
    version = put_signed(registry, artifact(), ada)
    folder = registry.materialize(version)
    (folder / WEIGHTS).chmod(0o644)
    (folder / WEIGHTS).write_text("firsT")
    result = command("verify", "topics", "--key", str(ada.public))
    assert result.exit_code == 5
    assert WEIGHTS.encode() in result.stderr_bytes


@pytest.mark.parametrize("by", ["registry", "environment"])
def test_the_quick_start_is_refused_before_it_trains(command, tmp_path, monkeypatch, by):
    monkeypatch.setenv("ADAPTERHUB_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("adapterhub.cli.quickstart.load_backbone", None)
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "kept.txt").write_text("precious")
    if by == "registry":
        Registry().set_requires_signed(True)
    else:
        monkeypatch.setenv("ADAPTERHUB_REQUIRE_SIGNED", "1")
    refused = command("quickstart", "--folder", str(folder))
    off = {"registry": b"adapterhub trust require off", "environment": b"unset ADAPTERHUB_REQUIRE"}
    assert (refused.exit_code, off[by] in refused.stderr_bytes) == (9, True)
    assert b"only signed adapters are loaded" in refused.stderr_bytes
    assert [path.name for path in folder.iterdir()] == ["kept.txt"]


def test_signatures_of_an_artifact_are_told_with_their_size(registry, version, signature):
    assert registry.stored_signatures(version.digest) == ()
    registry.add_signature(version.ref, signature)
    (stored,) = registry.stored_signatures(version.digest)
    assert (stored.sha256, stored.size) == (sha256(signature).hexdigest(), len(signature))
    assert registry.stored_signatures(version.digest) == (stored,)
    assert registry.stored_signatures("sha256:" + "0" * 64) == ()
