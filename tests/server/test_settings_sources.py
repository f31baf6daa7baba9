"""Settings: precedence of the sources, errors, and what is shown."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from adapterhub.cli.serve import print_settings
from adapterhub.engine.config import EngineConfig
from adapterhub.errors import SettingsError
from adapterhub.server.settings import ServerSettings, load_settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "serve.toml"

    def write(text):
        path.write_text(text)
        return path

    return write


@pytest.fixture
def load(monkeypatch):
    """Load settings with an environment."""

    def load(flags, environ=None, *args):
        for name, value in (environ or {}).items():
            monkeypatch.setenv(name, value)
        return load_settings(flags, *args)

    return load


def test_flags_precede_the_environment_the_file_and_the_defaults(file, load):
    path = file('backbone = "from-file"\nport = 1\nmax_num_seqs = 2\nmax_queue = 3\n')
    environ = {
        "ADAPTERHUB_SERVE_PORT": "11",
        "ADAPTERHUB_SERVE_MAX_NUM_SEQS": "12",
        "ADAPTERHUB_HOME": "/elsewhere",
    }
    found = load({"port": 21, "max_num_seqs": None, "adapters": []}, environ, path)
    settings = found.settings
    assert (settings.port, settings.max_num_seqs, settings.max_queue) == (21, 12, 3)
    assert settings.backbone == ("from-file",)
    assert {
        name: found.sources[name] for name in ("port", "max_num_seqs", "max_queue", "host")
    } == {
        "port": "--port",
        "max_num_seqs": "ADAPTERHUB_SERVE_MAX_NUM_SEQS",
        "max_queue": str(path),
        "host": "default",
    }
    assert found.sources.keys() == ServerSettings.model_fields.keys()


def test_a_variable_names_the_file_if_no_flag_does(file, load):
    environ = {"ADAPTERHUB_SERVE_CONFIG": str(file('backbone = "one"\n'))}
    assert load({}, environ).settings.backbone == ("one",)
    other = Path("other.toml")
    other.write_text('backbone = "two"\n')
    assert load({}, environ, other).settings.backbone == ("two",)


def test_variables_are_converted_to_the_type_of_their_setting(load):
    environ = {
        "ADAPTERHUB_SERVE_BACKBONE": "tiny",
        "ADAPTERHUB_SERVE_ADAPTERS": "a@prod, b",
        "ADAPTERHUB_SERVE_LOG_PROMPTS": "true",
        "ADAPTERHUB_SERVE_QUEUE_TIMEOUT": "2.5",
        "ADAPTERHUB_SERVE_HOST": "",
    }
    settings = load({}, environ).settings
    assert settings.adapters == ("a@prod", "b")
    assert settings.log_prompts is True
    assert settings.queue_timeout == 2.5
    assert settings.host == "127.0.0.1"


def test_settings_without_a_flag_are_assigned(load):
    assigned = ["max_queue=7", "adapters=a,b", "log_prompts=yes"]
    found = load({"backbone": "tiny"}, {"ADAPTERHUB_SERVE_MAX_QUEUE": "5"}, None, assigned)
    assert found.settings.max_queue == 7
    assert found.settings.adapters == ("a", "b")
    assert found.settings.log_prompts
    assert found.sources["max_queue"] == "--set max_queue"
    for wrong, problem in (("max_queue", "has no value"), ("max_que=1", "Did you mean")):
        with pytest.raises(SettingsError, match=problem):
            load({"backbone": "tiny"}, {}, None, [wrong])


def test_the_settings_are_printed_with_their_sources(capsys, load):
    found = load({"backbone": "tiny"}, {"ADAPTERHUB_SERVE_API_KEY": "k" * 20})
    print_settings(found)
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert rows["backbone"] == ["backbone", "tiny", "--backbone"]
    assert rows["api_key"] == ["api_key", "(hidden)", "ADAPTERHUB_SERVE_API_KEY"]
    assert rows["port"] == ["port", "8000", "default"]
    assert rows["device"] == ["device", "-", "default"]
    print_settings(found, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["port"] == {"value": 8000, "source": "default"}
    assert document["api_key"]["value"] == "(hidden)"


def test_by_default_prompts_are_not_logged_and_access_is_local(load):
    settings = load({"backbone": "tiny"}, {}).settings
    assert settings.log_prompts is False
    assert settings.host == "127.0.0.1"
    assert settings.anonymous_access == "auto"
    assert settings.max_num_seqs <= settings.places
    # with the reserved share, a flood does not fill all sequences
    assert settings.places * (1 - settings.reserved_share) < settings.max_num_seqs


def test_the_engine_gets_its_sizes(load):
    sizes = load({"backbone": "tiny", "max_num_seqs": 4, "rank_slots": 64}, {}).settings.engine()
    assert asdict(sizes) == {**asdict(EngineConfig()), "max_num_seqs": 4, "rank_slots": 64}


@pytest.mark.parametrize(
    ("flags", "environ", "text", "expected"),
    [
        ({}, {}, "", "backbone: is missing"),
        (
            {},
            {},
            'backbone = "x"\nmax_num_seq = 3',
            "max_num_seq: is an unknown setting. Did",
        ),
        ({}, {"ADAPTERHUB_SERVE_PORTS": "1"}, "", "PORTS: is an unknown setting. Did you mean"),
        ({"prot": 1}, {}, "", "--prot: is an unknown setting. Did you mean 'port'"),
        ({"backbone": "x", "port": 70000}, {}, "", "--port: input should be less than or equal"),
        ({"backbone": "x"}, {}, "max_num_seqs = 0", "serve.toml: max_num_seqs: input should be"),
        ({"backbone": "x"}, {}, "max_head = 9", "max_head: max_head was renamed to max_header_b"),
        ({}, {"ADAPTERHUB_SERVE_MAX_HEAD": "1"}, "", "MAX_HEAD: max_head was renamed to max_head"),
        ({"backbone": "x"}, {}, "max_body_bytes = true", "max_body_bytes: must be a number"),
        (
            {"backbone": "x"},
            {"ADAPTERHUB_SERVE_MAX_NUM_SEQS": "many"},
            "",
            "MAX_NUM_SEQS: input should",
        ),
        (
            {"backbone": "x"},
            {"ADAPTERHUB_SERVE_ANONYMOUS_ACCESS": "all"},
            "",
            "ANONYMOUS_ACCESS: input",
        ),
        ({"backbone": "x", "block_size": 64, "kv_cache_tokens": 32}, {}, "", "block_size 64 is"),
        ({}, {}, "backbone = ", "is not TOML"),
        ({}, {}, "max_rows = 2", "serve.toml: max_rows: max_rows was renamed to max_num_seqs"),
        ({}, {}, "[engine]\nmax_num_seqs = 2", "engine: is an unknown setting"),
        ({}, {"ADAPTERHUB_SERVE_CONFIG": "none.toml"}, None, "none.toml: can't be read: No such"),
    ],
)
def test_invalid_settings_are_reported_with_their_source(
    file, flags, environ, text, expected, load
):
    with pytest.raises(SettingsError) as caught:
        load(flags, environ, None if text is None else file(text))
    assert expected in str(caught.value)


@pytest.mark.parametrize("secret", ["a-secret-of-16-and-more", "short"])
def test_a_secret_is_never_shown(secret, load):
    environ = {"ADAPTERHUB_SERVE_BACKBONE": "tiny", "ADAPTERHUB_SERVE_API_KEY": secret}
    try:
        found = load({}, environ)
    except SettingsError as error:
        shown = str(error)
        assert "at least 16 characters" in shown
    else:
        shown = json.dumps(found.shown()) + repr(found) + str(found.settings)
        assert ["api_key", "(hidden)", "ADAPTERHUB_SERVE_API_KEY"] in json.loads(
            json.dumps(found.shown())
        )
        assert found.settings.api_key.get_secret_value() == secret
    assert secret not in shown


def test_every_setting_is_shown_with_its_source(load):
    shown = load({"backbone": "tiny", "adapters": ["a"]}, {}).shown()
    assert [name for name, _, _ in shown] == list(ServerSettings.model_fields)
    assert ("adapters", ["a"], "--adapter") in shown
    assert ("port", 8000, "default") in shown
    assert ("api_key", None, "default") in shown


def test_every_setting_is_described():
    described = ServerSettings.__doc__
    assert described is not None
    for name in ServerSettings.model_fields:
        assert f"        {name}: " in described, name


def test_a_file_with_a_key_that_every_user_may_read_is_refused(tmp_path):
    file = tmp_path / "serve.toml"
    file.write_text('backbone = "minilm-l6"\napi_key = "a-secret-of-16-and-more"\n')
    file.chmod(0o644)
    with pytest.raises(SettingsError, match=r"serve\.toml: api_key: .*chmod 640") as caught:
        load_settings({}, file)
    assert "a-secret" not in str(caught.value)
    file.chmod(0o640)
    assert load_settings({}, file).settings.api_key is not None
