"""The ``adapterhub`` command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from adapterhub.cli import (
    aliases,
    archives,
    ask,
    backbones,
    compare,
    compose,
    explain,
    hub,
    keys,
    learn_curve,
    probe,
    refresh,
    registry,
    run,
    serve,
    show,
    signing,
    sweep,
    transfer,
)
from adapterhub.cli.faults import exit_code, message
from adapterhub.errors import AdapterHubError

if TYPE_CHECKING:
    from collections.abc import Sequence


def build_app() -> typer.Typer:
    """Return the command line with all its commands."""
    app = typer.Typer(
        name="adapterhub",
        help="Train, store and use small task adapters on one frozen, quantized backbone.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for group in (
        run,
        sweep,
        learn_curve,
        refresh,
        ask,
        explain,
        compare,
        probe,
        compose,
        registry,
        show,
        aliases,
        signing,
        archives,
        transfer,
        hub,
        serve,
        keys,
        backbones,
    ):
        group.add_commands(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; an expected error is one line on standard error."""
    try:
        build_app()(args=None if arguments is None else list(arguments))
    except AdapterHubError as error:
        sys.stderr.write(f"{message(error)}\n")
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # the reader of a pipe has gone; nothing is left to say
        sys.exit(141)
