"""The ``adapterhub`` command."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

from adapterhub.cli import (
    aliases,
    backbones,
    compose,
    data,
    evaluate,
    explain,
    export,
    keys,
    predict,
    refresh,
    registry,
    serve,
    signing,
    sweep,
    train,
    transfer,
)
from adapterhub.cli.console import plain
from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    DataError,
    FingerprintMismatch,
    IntegrityError,
    NotFoundError,
    RecipeError,
    RefError,
    SettingsError,
    SignatureError,
    TrainingInterrupted,
    TransferError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: A command's function, or the help of a group and its commands.
Command: TypeAlias = "Callable[..., None] | tuple[str, Mapping[str, Command]]"

#: Heading in ``--help`` to the commands below it.
COMMANDS: dict[str, dict[str, Command]] = {
    "Train": {
        "train": train.train,
        "sweep": sweep.sweep,
        "learn-curve": sweep.learn_curve,
        "refresh": refresh.refresh,
        "compose": compose.compose,
        "quickstart": train.quickstart,
        "data": (
            "Check data before a run.",
            {"check": data.check},
        ),
        "backbones": (
            "List and fetch backbones, and show their forward paths.",
            {
                "list": backbones.list_backbones,
                "fetch": backbones.fetch_backbones,
                "show": backbones.show_backbone,
            },
        ),
    },
    "Evaluate": {
        "predict": predict.predict,
        "chat": predict.chat,
        "eval": evaluate.evaluate,
        "compare": evaluate.compare,
        "explain": explain.explain,
        "bias-audit": evaluate.bias_audit,
    },
    "Registry": {
        "list": registry.list_versions,
        "show": registry.show,
        "diff": registry.diff,
        "tag": registry.tag,
        "rm": registry.rm,
        "gc": registry.gc,
        "registry": (
            "Repair the registry.",
            {"rebuild": registry.rebuild_index},
        ),
        "promote": aliases.promote,
        "rollback": aliases.rollback,
        "log": aliases.log,
        "alias": (
            "Move and remove aliases such as prod.",
            {"set": aliases.set_alias, "rm": aliases.remove_alias, "rule": aliases.rule},
        ),
    },
    "Publish": {
        "push": transfer.push,
        "clean": transfer.clean,
        "pull": transfer.pull,
        "import-peft": transfer.import_peft,
        "export": export.export,
        "import": transfer.import_file,
        "merge": export.merge,
        "sign": signing.sign,
        "verify": signing.verify,
        "trust": (
            "Manage the keys whose signatures are trusted.",
            {
                "new": signing.new_key,
                "add": signing.add_key,
                "list": signing.list_keys,
                "rm": signing.remove_key,
                "require": signing.require,
            },
        ),
    },
    "Serve": {
        "serve": serve.serve,
        "key": (
            "Manage API keys and their limits.",
            {"create": keys.create_key, "list": keys.list_keys, "rm": keys.remove_key},
        ),
        "hub": (
            "Serve the registry as a private Hub.",
            {"serve": serve.serve_hub},
        ),
    },
}
#: Former names of commands.
RENAMED = {
    "adopt": "import-peft",
    "probe": "bias-audit",
    "hub token": "key create NAME --scope RIGHT:OWNER",
}
#: Former names of options, by command.
RENAMED_OPTIONS = {
    "predict": {"--rows": "--jsonl"},
    "explain": {"--rows": "--jsonl", "--class": "--label"},
    "train": {"--probe-seconds": "--audit-seconds"},
    "bias-audit": {"--seconds": "--max-seconds", "--level": "--confidence-level"},
    "compare": {"--level": "--confidence-level"},
    "compose": {
        "--method": "--combination-type",
        "--rank": "--svd-rank",
        "--majority-sign": "--majority-sign-method",
    },
    "learn-curve": {
        "--per-label": "--examples-per-label",
        "--rows": "--num-examples",
        "--least-steps": "--min-steps",
    },
    "refresh": {"--anyway": "--force"},
    "push": {"--message": "--commit-message"},
    "serve": {"--anonymous": "--anonymous-access"},
}
#: The first class that matches decides; any other error exits with 1.
EXIT_CODES: tuple[tuple[type[AdapterHubError], int], ...] = (
    (RecipeError, 2),
    (RefError, 2),
    (SettingsError, 2),
    (DataError, 3),
    (NotFoundError, 4),
    (IntegrityError, 5),
    (ArtifactError, 5),
    (FingerprintMismatch, 6),
    (BackboneError, 7),
    (SignatureError, 9),
    (TransferError, 10),
    (TrainingInterrupted, 130),
)


class _Command(TyperCommand):
    """A command that answers a former name of an option with the new one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        renamed = RENAMED_OPTIONS.get(ctx.info_name or "", {})
        for argument in args[: args.index("--")] if "--" in args else args:
            old = argument.partition("=")[0]
            if old in renamed:
                ctx.fail(f"{old} is now {renamed[old]}")
        return super().parse_args(ctx, args)


def build_app() -> typer.Typer:
    """Return the command line with all commands."""
    app = typer.Typer(
        name="adapterhub",
        help="Train, store, compose and serve many task adapters on one frozen backbone.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for panel, commands in COMMANDS.items():
        _add(app, commands, panel)
    _add_renamed(app)
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


def exit_code(error: AdapterHubError) -> int:
    """Return the exit code of the process for an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def message(error: AdapterHubError) -> str:
    """Return the line that is shown for an error."""
    return plain(f"error: {error}")


def _add(app: typer.Typer, commands: Mapping[str, Command], panel: str | None = None) -> None:
    for name, command in commands.items():
        if isinstance(command, tuple):
            text, inner = command
            group = typer.Typer(help=text, no_args_is_help=True)
            _add(group, inner)
            _add_renamed(group, name)
            app.add_typer(group, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel, cls=_Command)(command)


def _add_renamed(app: typer.Typer, group: str = "") -> None:
    ignored: dict[str, Any] = {"ignore_unknown_options": True, "allow_extra_args": True}
    for old, new in RENAMED.items():
        parent, _, name = old.rpartition(" ")
        if parent == group:
            app.command(name, hidden=True, context_settings=ignored)(_renamed(old, new))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"adapterhub {version('adapterhub')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train, store, compose and serve many task adapters on one frozen backbone."""


def _renamed(old: str, new: str) -> Callable[[], None]:
    def command() -> None:
        typer.echo(f"error: 'adapterhub {old}' is now 'adapterhub {new}'", err=True)
        raise typer.Exit(2)

    return command
