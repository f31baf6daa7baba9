"""Console output: tables and lines for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from rich.text import Text

    from adapterhub.evaluation.paired_tests import Difference
    from adapterhub.registry.version import Version

#: Characters that control a terminal or the direction of text; line feeds and tabs do not.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: Width of a table in a file or a pipe, in columns.
PIPE_WIDTH = 140


def plain(text: str) -> str:
    """Return a text in which control characters are escaped as in JSON.

    Everything that is printed passes through here: names, labels, messages and generated texts come
    from others, and must not move the cursor, retitle the window or hide what is printed.
    """
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class PlainConsole(Console):
    """Console of rich on which no text that it is given controls the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a text of a line, or of a cell of a table, as rich renders it."""
        return super().render_str(plain(text), **options)


class PlainFormatter(logging.Formatter):
    """Formatter of log lines without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return plain(super().format(record))


def output() -> Console:
    """Return the console of standard output."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return PlainConsole(highlight=False, soft_wrap=True, width=width)


def log_console() -> Console:
    """Return the console of standard error, for progress."""
    return PlainConsole(stderr=True, highlight=False)


def say(text: str) -> None:
    """Write a line to standard output."""
    typer.echo(plain(text))


def print_json(document: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(plain(json.dumps(document, indent=2, ensure_ascii=False)) + "\n")


def print_result(document: Any, *lines: str, as_json: bool) -> None:
    """Write a result as a JSON document, or else as lines of text."""
    if as_json:
        print_json(document)
        return
    for line in lines:
        output().print(line, markup=False)


def version_document(version: Version) -> dict[str, Any]:
    """Return a version as a JSON document."""
    return {**asdict(version), "ref": str(version.ref)}


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table; columns whose name starts with ``>`` are aligned to the right."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left"
        )
    return result


def difference_cells(found: Difference) -> tuple[str, ...]:
    """Return metric, both values, difference, confidence interval and p-value for a table."""
    return (
        found.metric,
        f"{found.first:.4f}",
        f"{found.second:.4f}",
        f"{found.value:+.4f}",
        f"{found.interval.low:+.4f} … {found.interval.high:+.4f}",
        f"{found.p_value:.4f}",
    )


def percent(value: float) -> str:
    """Return a share as a percentage."""
    return f"{value:.2%}"


def megabytes(size: int) -> str:
    """Return a size in megabytes (a million bytes)."""
    return f"{size / 1e6:.2f} MB"


def short_digest(digest: str) -> str:
    """Return the beginning of a digest or key."""
    return f"{digest[:19]}…" if digest.startswith("sha256:") else f"{digest[:16]}…"


def minute(time: str) -> str:
    """Return an ISO 8601 time up to its minute."""
    return time[:16].replace("T", " ")


def open_reporter(console: Console) -> AbstractContextManager[Any]:
    """Return a progress reporter: a live bar on a terminal, otherwise a line now and then."""
    from adapterhub.training.progress import PlainReporter, RichReporter

    return RichReporter(console) if console.is_terminal else nullcontext(PlainReporter(console))


def silence_libraries(*, compiler: bool = True) -> None:
    """Hide warnings and progress bars of libraries that a user cannot act on.

    Nothing heavy is imported: libraries read their settings when they are.

    Args:
        compiler: Whether torch's compiler may be used. bitsandbytes loads it for training on the
            CPU, which takes 1 to 2 seconds.
    """
    if not compiler:
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    # adapterhub itself logs and never warns
    warnings.simplefilter("ignore")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("adapterhub").setLevel(logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
