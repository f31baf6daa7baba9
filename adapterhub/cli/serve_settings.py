"""What ``serve --show-config`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterhub.cli.console import output, print_json, table

if TYPE_CHECKING:
    from adapterhub.server.configuration import Configuration


def print_settings(configuration: Configuration, *, as_json: bool = False) -> None:
    """Print every setting, its value, and where it came from; secrets are hidden."""
    shown = configuration.shown()
    if as_json:
        print_json({name: {"value": value, "source": source} for name, value, source in shown})
        return
    rows = table("setting", "value", "from")
    for name, value, source in shown:
        rows.add_row(name, _text(value), source)
    output().print(rows)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value in (None, "") else str(value)
