"""Server settings: their meaning, and their values from flags, environment, TOML and defaults."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from adapterhub.engine.config import EngineConfig, ForwardPath
from adapterhub.errors import SettingsError, did_you_mean
from adapterhub.http.connections import ConnectionLimits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PREFIX = "ADAPTERHUB_SERVE_"
#: Names the file of settings if no flag does.
FILE_VARIABLE = f"{PREFIX}CONFIG"
DEFAULT = "default"
HIDDEN = "(hidden)"
#: Former name of a setting to its current name.
RENAMED = {
    "max_body": "max_body_bytes",
    "max_head": "max_header_bytes",
    "head_seconds": "header_timeout",
    "body_seconds": "body_timeout",
    "write_seconds": "write_timeout",
    "request_seconds": "request_timeout",
    "queue_seconds": "queue_timeout",
    "keep_alive_seconds": "keep_alive_timeout",
    "drain_seconds": "shutdown_timeout",
    "spare_share": "reserved_share",
    "spare_seconds": "reserved_seconds",
    "anonymous": "anonymous_access",
    "max_rows": "max_num_seqs",
    "step_tokens": "max_num_batched_tokens",
    "cache_positions": "kv_cache_tokens",
    "rank_rows": "rank_slots",
    "pass_tokens": "max_pooling_tokens",
    "host_bytes": "host_cache_bytes",
    "look_ahead": "prefetch_lookahead",
    "copy_bytes": "max_copy_bytes",
}
#: Flags with another name than their setting.
_FLAGS = {"adapters": "--adapter"}
_ENGINE = EngineConfig()
_MIB = 1024 * 1024
#: Shortest API key that the settings accept, in characters.
_MIN_KEY = 16


def _reject_bool(value: Any) -> Any:
    # pydantic converts true to 1
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _check_key(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < _MIN_KEY:
        raise ValueError(f"must have at least {_MIN_KEY} characters")
    return secret


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


_Number = BeforeValidator(_reject_bool)
_Count = Annotated[int, _Number, Field(ge=1)]
_CountOrZero = Annotated[int, _Number, Field(ge=0)]
_Timeout = Annotated[float, _Number, Field(gt=0.0, le=86400.0)]


class ServerSettings(BaseSettings):
    """Settings of a server.

    Args:
        backbone: Names in the catalog, Hub ids or local folders of the backbones.
        quantization: Quantization of the backbones' linear layers.
        device: cpu, cuda, cuda:1, …; the fastest one by default.
        unload_idle: Seconds without requests after which a backbone is unloaded; the next request
            loads it again. Never by default.
        adapters: References of adapters to load before the server is ready.
        host: Address to listen on. One that other machines can reach needs an API key.
        port: Port to listen on; 0 for any free port.
        anonymous_access: Access without a key: ``no``, ``use``, ``manage``, or ``auto``, which
            allows everything on loopback until there is a key, and nothing otherwise.
        api_key: Key with the role manage in addition to the stored ones, for containers.
        max_inflight: Most sequences that the fair queue admits to the engine at the same time;
            ``max_num_seqs`` plus an eighth by default. A text to classify, tag, answer from or
            embed counts as one. More of them wait in the engine, where order is not fair.
        reserved_share: Share of these sequences that callers above an equal share leave free
            while another caller stays below it or did recently.
        reserved_seconds: Seconds for which a caller counts as recent.
        max_queue: Most requests that wait in the fair queue.
        queue_timeout: Longest wait in the fair queue, in seconds.
        max_body_bytes: Largest body of a request, in bytes.
        max_audio_bytes: Largest body of a request with a file to transcribe, in bytes.
        max_header_bytes: Largest request line and headers of a request, in bytes.
        max_connections: Most connections; further ones get the status 503.
        header_timeout: Seconds within which the headers of a request must arrive.
        body_timeout: Seconds within which the body of a request must arrive.
        write_timeout: Seconds for which a client may read nothing of its response.
        request_timeout: Longest duration of a request until the end of its response, in seconds.
        keep_alive_timeout: Seconds for which an idle connection is kept open.
        shutdown_timeout: Seconds that running requests get to finish after SIGTERM.
        log_level: Lowest level that is logged.
        log_prompts: Whether the bodies of requests and responses are logged.
        memory_bytes: Most bytes of weights, KV caches and adapters in host memory, over all
            backbones; the server does not start where they do not fit. No limit by default.
        max_num_seqs: See ``EngineConfig``.
        max_num_batched_tokens: See ``EngineConfig``.
        kv_cache_tokens: See ``EngineConfig``.
        block_size: See ``EngineConfig``.
        rank_slots: See ``EngineConfig``.
        max_pooling_tokens: See ``EngineConfig``.
        host_cache_bytes: See ``EngineConfig``.
        prefetch_lookahead: See ``EngineConfig``.
        max_overtakes: See ``EngineConfig``.
        max_copy_bytes: See ``EngineConfig``.
        forward_path: See ``EngineConfig``.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    backbone: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()
    quantization: Literal["nf4", "fp4", "int8", "none"] = "nf4"
    device: str | None = None
    unload_idle: _Timeout | None = None
    adapters: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)] = ()

    host: str = "127.0.0.1"
    port: Annotated[int, _Number, Field(ge=0, le=65535)] = 8000
    anonymous_access: Literal["auto", "no", "use", "manage"] = "auto"
    api_key: Annotated[SecretStr, AfterValidator(_check_key)] | None = None

    max_inflight: _Count | None = None
    reserved_share: Annotated[float, _Number, Field(ge=0.0, lt=1.0)] = 0.85
    reserved_seconds: Annotated[float, _Number, Field(ge=0.0, le=86400.0)] = 30.0
    max_queue: _Count = 1024
    queue_timeout: _Timeout = 60.0

    max_body_bytes: _Count = 4 * _MIB
    max_audio_bytes: _Count = 25 * _MIB
    max_header_bytes: Annotated[int, _Number, Field(ge=1024)] = 64 * 1024
    max_connections: _Count = 4096
    header_timeout: _Timeout = 10.0
    body_timeout: _Timeout = 30.0
    write_timeout: _Timeout = 30.0
    request_timeout: _Timeout = 600.0
    keep_alive_timeout: _Count = 15
    shutdown_timeout: _CountOrZero = 30

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_prompts: bool = False

    memory_bytes: _Count | None = None
    max_num_seqs: _Count = _ENGINE.max_num_seqs
    max_num_batched_tokens: _Count = _ENGINE.max_num_batched_tokens
    kv_cache_tokens: _Count = _ENGINE.kv_cache_tokens
    block_size: _Count = _ENGINE.block_size
    rank_slots: _Count = _ENGINE.rank_slots
    max_pooling_tokens: _Count = _ENGINE.max_pooling_tokens
    host_cache_bytes: _Count = _ENGINE.host_cache_bytes
    prefetch_lookahead: _Count = _ENGINE.prefetch_lookahead
    max_overtakes: _CountOrZero = _ENGINE.max_overtakes
    max_copy_bytes: _Count = _ENGINE.max_copy_bytes
    forward_path: ForwardPath = _ENGINE.forward_path

    @model_validator(mode="after")
    def _sizes_fit(self) -> ServerSettings:
        if self.block_size > self.kv_cache_tokens:
            raise ValueError(
                f"block_size {self.block_size} is larger than "
                f"kv_cache_tokens {self.kv_cache_tokens}"
            )
        return self

    @property
    def connections(self) -> ConnectionLimits:
        """Limits of connections."""
        names = (field.name for field in fields(ConnectionLimits))
        return ConnectionLimits(**{name: getattr(self, name) for name in names})

    @property
    def places(self) -> int:
        """Sequences that may be in the engine at the same time."""
        # the few that wait in the engine start as soon as others finish
        return self.max_inflight or self.max_num_seqs + self.max_num_seqs // 8

    def engine(self) -> EngineConfig:
        """Return the settings of the engine."""
        # not every setting of an engine is one of a server
        shared = EngineConfig.__dataclass_fields__.keys() & type(self).model_fields.keys()
        return EngineConfig(**{name: getattr(self, name) for name in shared})


@dataclass(frozen=True, slots=True)
class Configuration:
    """Validated settings and the source of each.

    Args:
        settings: Settings of the server.
        sources: Source of each setting: ``--flag``, name of the variable, path of the file, or
            ``default``.
    """

    settings: ServerSettings
    sources: Mapping[str, str]

    def shown(self) -> list[tuple[str, Any, str]]:
        """Return name, value and source of each setting; the values of secrets are hidden."""
        return [
            (name, _plain(getattr(self.settings, name)), self.sources[name])
            for name in ServerSettings.model_fields
        ]


def load_settings(
    flags: Mapping[str, Any], file: Path | None = None, assigned: Sequence[str] = ()
) -> Configuration:
    """Read the settings of a server: flags first, then the environment, a file, and defaults.

    Args:
        flags: Values of flags by setting; ``None`` and empty lists were not given.
        file: TOML file; ``ADAPTERHUB_SERVE_CONFIG`` names it if not given.
        assigned: Settings without a flag of their own, each as ``name=value``.

    Raises:
        SettingsError: naming the invalid setting and its source.
    """
    if file is None and os.environ.get(FILE_VARIABLE):
        file = Path(os.environ[FILE_VARIABLE])
    # setting to value and source; later sources take precedence
    given: dict[str, tuple[Any, str]] = {}
    for values, source in (
        (_of_file(file) if file else {}, str(file)),
        (_of_environment(), PREFIX),
        (dict(map(_assignment, assigned)), "--set"),
        ({name: value for name, value in flags.items() if value not in (None, [], ())}, "--"),
    ):
        for name, value in values.items():
            place = _place(name, source)
            _check_known(name, place, ServerSettings.model_fields)
            given[name] = (value, place)
    try:
        settings = ServerSettings(**{name: value for name, (value, _) in given.items()})
    except ValidationError as error:
        raise _settings_error(error, given) from None
    if not settings.backbone:
        hint = f"Give --backbone, {PREFIX}BACKBONE, or backbone = … in a file for --config"
        raise SettingsError("is missing", place="backbone", hint=hint)
    sources = {
        name: given[name][1].removesuffix(f": {name}") if name in given else DEFAULT
        for name in ServerSettings.model_fields
    }
    return Configuration(settings, sources)


def _of_file(file: Path) -> dict[str, Any]:
    try:
        # the source ignores a missing file
        file.open("rb").close()
        values = TomlConfigSettingsSource(ServerSettings, file)()
        if "api_key" in values and os.name == "posix" and file.stat().st_mode & stat.S_IRWXO:
            raise SettingsError(
                "holds a key, and every user of this machine has access to it",
                place=f"{file}: api_key",
                hint=f"Run chmod 640 {file}, or set {PREFIX}API_KEY instead",
            )
        return values
    except OSError as error:
        raise SettingsError(f"can't be read: {error.strerror}", place=str(file)) from error
    except ValueError as error:
        raise SettingsError(f"is not TOML: {error}", place=str(file)) from None


def _of_environment() -> dict[str, Any]:
    known = [f"{PREFIX}{name.upper()}" for name in ServerSettings.model_fields]
    for variable, value in os.environ.items():
        if value and variable.startswith(PREFIX) and variable not in (*known, FILE_VARIABLE):
            _check_known(variable.removeprefix(PREFIX).lower(), variable, known)
    return EnvSettingsSource(ServerSettings)()


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        hint = "Write name=value, e.g. max_num_seqs=16"
        raise SettingsError("has no value", place=f"--set {name.strip()}", hint=hint)
    return name.strip(), value.strip()


def _place(name: str, source: str) -> str:
    """Return where a setting was given."""
    if source == PREFIX:
        return f"{PREFIX}{name.upper()}"
    if source == "--set":
        return f"--set {name}"
    if source == "--":
        return _FLAGS.get(name, f"--{name.replace('_', '-')}")
    return f"{source}: {name}"


def _check_known(name: str, place: str, known: Iterable[str]) -> None:
    if name in RENAMED:
        raise SettingsError(f"{name} was renamed to {RENAMED[name]}", place=place)
    if name not in ServerSettings.model_fields:
        hint = did_you_mean(place if place.startswith(PREFIX) else name, known)
        raise SettingsError("is an unknown setting", place=place, hint=hint)


def _settings_error(error: ValidationError, given: Mapping[str, tuple[Any, str]]) -> SettingsError:
    """Return pydantic's first problem as one line, without the value of a secret."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    problem = f"{message[0].lower()}{message[1:]}"
    name = str(first["loc"][0]) if first["loc"] else ""
    if not name:
        return SettingsError(problem, place="settings")
    value, place = given[name]
    if name != "api_key":
        problem = f"{problem} (found {value!r:.80})"
    return SettingsError(problem, place=place)


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    return list(value) if isinstance(value, tuple) else value
