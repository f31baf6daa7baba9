"""Where settings come from: flags, then the environment, then a TOML file, then defaults."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from pydantic import SecretStr, ValidationError

from adapterhub.errors import SettingsError, did_you_mean
from adapterhub.server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "ADAPTERHUB_SERVE_"
#: Names the file where no flag does.
FILE_VARIABLE = f"{PREFIX}CONFIG"
DEFAULT = "default"
HIDDEN = "(hidden)"
#: A file of settings of a few kilobytes is normal.
_MAX_FILE = 1_000_000
_FIELDS = ServerSettings.model_fields
#: Former name of a setting to the name that replaced it.
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
}
#: Flags that are not named as their setting is.
_FLAGS = {"adapters": "--adapter"}


@dataclass(frozen=True, slots=True)
class Configuration:
    """Settings, and where each came from.

    Args:
        settings: validated.
        sources: field to ``--flag``, name of the variable, path of the file, or ``default``.
    """

    settings: ServerSettings
    sources: Mapping[str, str]

    def shown(self) -> list[tuple[str, Any, str]]:
        """Return name, value and source of each setting, the values of secrets hidden."""
        return [
            (name, _plain(getattr(self.settings, name)), self.sources[name]) for name in _FIELDS
        ]


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    source: str


def load_settings(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
    assigned: Sequence[str] = (),
) -> Configuration:
    """Read the settings of a server.

    Args:
        flags: field to value; ``None`` and an empty list are flags that were not given.
        environ: of the process; of it ``ADAPTERHUB_SERVE_*`` counts, where it is not empty.
        file: of TOML; ``ADAPTERHUB_SERVE_CONFIG`` names one where not given.
        assigned: ``name=value`` each, for settings that have no flag of their own.

    Raises:
        SettingsError: naming the setting at fault and where it was given.
    """
    if file is None and environ.get(FILE_VARIABLE):
        file = Path(environ[FILE_VARIABLE])
    given = _of_file(file) if file is not None else {}
    given |= _of_environment(environ)
    given |= dict(map(_assignment, assigned))
    given |= {
        name: _Given(value, _FLAGS.get(name, f"--{name.replace('_', '-')}"))
        for name, value in flags.items()
        if value is not None and value not in ([], ())
    }
    for name, each in given.items():
        if name not in _FIELDS:
            raise _unknown(name, _place(name, each.source), did_you_mean(name, _FIELDS))
    if "backbone" not in given or not given["backbone"].value:
        raise SettingsError(
            "is missing",
            place="backbone",
            hint=f"Give --backbone, {PREFIX}BACKBONE, or backbone = … in a file for --config",
        )
    try:
        settings = ServerSettings.model_validate({n: each.value for n, each in given.items()})
    except ValidationError as error:
        raise _translate(error, given) from None
    sources = {name: given[name].source if name in given else DEFAULT for name in _FIELDS}
    return Configuration(settings, sources)


def _of_file(file: Path) -> dict[str, _Given]:
    try:
        if file.stat().st_size > _MAX_FILE:
            raise SettingsError(f"is larger than {_MAX_FILE} bytes", place=str(file))
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"can't be read: {error.strerror}", place=str(file)) from error
    except ValueError as error:
        raise SettingsError(f"is not TOML: {error}", place=str(file)) from None
    return {name: _Given(value, str(file)) for name, value in document.items()}


def _of_environment(environ: Mapping[str, str]) -> dict[str, _Given]:
    found = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable == FILE_VARIABLE or not text:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in _FIELDS:
            known = [f"{PREFIX}{field.upper()}" for field in _FIELDS]
            raise _unknown(name, variable, did_you_mean(variable, known))
        found[name] = _Given(_of_text(name, text), variable)
    return found


def _unknown(name: str, place: str, hint: str) -> SettingsError:
    if name in RENAMED:
        return SettingsError(f"{name} was renamed to {RENAMED[name]}", place=place)
    return SettingsError("is an unknown setting", place=place, hint=hint)


def _assignment(text: str) -> tuple[str, _Given]:
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals:
        hint = "Write name=value, e.g. max_num_seqs=16"
        raise SettingsError("is no setting with a value", place=f"--set {name}", hint=hint)
    return name, _Given(_of_text(name, value.strip()), f"--set {name}")


def _of_text(name: str, text: str) -> Any:
    if name in _FIELDS and get_origin(_FIELDS[name].annotation) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def _translate(error: ValidationError, given: Mapping[str, _Given]) -> SettingsError:
    """Turn pydantic's first finding into one line, without the value of a secret."""
    first = error.errors(include_url=False)[0]
    message = first["msg"].removeprefix("Value error, ")
    problem = f"{message[0].lower()}{message[1:]}"
    name = str(first["loc"][0]) if first["loc"] else ""
    if not name:
        return SettingsError(problem, place="settings")
    each = given[name]
    if name != "api_key":
        problem = f"{problem} (found {each.value!r:.80})"
    return SettingsError(problem, place=_place(name, each.source))


def _place(name: str, source: str) -> str:
    """Return where a setting was given; a file has many."""
    return source if source.startswith(("--", PREFIX)) else f"{source}: {name}"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    return list(value) if isinstance(value, tuple) else value
