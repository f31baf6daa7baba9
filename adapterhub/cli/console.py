"""How commands speak: people on a console, programs in JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from typing import Any

from rich.console import Console
from rich.table import Table

#: Columns of a table that goes into a file or a pipe.
PIPE_WIDTH = 140


def output() -> Console:
    """Return the console of standard output."""
    width = None if sys.stdout.isatty() else PIPE_WIDTH
    return Console(highlight=False, soft_wrap=True, width=width)


def log_console() -> Console:
    """Return the console of standard error, for progress."""
    return Console(stderr=True, highlight=False)


def print_json(document: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table; columns whose name starts with ``>`` are aligned to the right."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left"
        )
    return result


def share(value: float) -> str:
    """Return a share as per cent."""
    return f"{value:.2%}"


def megabytes(size: int) -> str:
    """Return a size in MB of a million bytes."""
    return f"{size / 1e6:.2f} MB"


def hush_libraries() -> None:
    """Hold back what libraries say that a user can do nothing about."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("adapterhub").setLevel(logging.INFO)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
