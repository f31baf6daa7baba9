"""Write the table of settings in ``docs/serving.md`` from the classes that hold them.

python docs/make_settings.py
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from adapterhub.engine.config import EngineConfig
from adapterhub.server.settings import ServerSettings

PAGE = Path(__file__).parent / "serving.md"
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->\n"
_ARGUMENT = re.compile(r"(\w+): (.*(?:\n .*)*)")


def arguments(described: type) -> dict[str, str]:
    """Return field to meaning, as the docstring of a class has them."""
    section = textwrap.dedent((described.__doc__ or "").partition("Args:\n")[2])
    return {
        name: " ".join(text.split()).rstrip(".").replace("``", "`")
        for name, text in _ARGUMENT.findall(section)
    }


def table() -> str:
    """Return the table."""
    meaning, sizes = arguments(ServerSettings), arguments(EngineConfig)
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in ServerSettings.model_fields.items():
        text = sizes[name] if meaning[name].startswith("see ") else meaning[name]
        rows.append(f"| `{name}` | {_shown(field.default)} | {text} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """Return the page with the table as it should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}{table()}{END}{rest.partition(END)[2]}"


def _shown(default: object) -> str:
    if default in (None, "", ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
