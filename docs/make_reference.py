"""Write the reference pages from the code: ``python docs/make_reference.py``.

These are the keys of a recipe (``recipes.md``), the command line (``cli.md``) and the table of
server settings in ``serving.md``.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from typer.main import get_command

from adapterhub.cli.main import COMMANDS, build_app
from adapterhub.engine.config import EngineConfig
from adapterhub.server.settings import ServerSettings
from adapterhub.training import recipe as recipes
from adapterhub.training.batch_schedule import DEFAULT_BATCH_SIZE, DEFAULT_EPOCHS

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parent
SECTIONS = {
    "top level": recipes.Recipe,
    "backbone": recipes.BackboneSection,
    "task": recipes.TaskSection,
    "data": recipes.DataSection,
    "data.hub": recipes.HubData,
    "data.split": recipes.SplitSection,
    "adapter (method: lora)": recipes.LoraSection,
    "adapter (method: prefix)": recipes.PrefixSection,
    "optimizer": recipes.OptimizerSection,
    "schedule": recipes.ScheduleSection,
    "train": recipes.TrainSection,
}
#: What a key without a value of its own defaults to.
EFFECTIVE_DEFAULTS = {
    "backbone.revision": "the catalog's",
    "task.class_weights": "equal",
    "task.out_of_scope": "none",
    "task.segmentation": "inferred",
    "task.source_language": "none",
    "task.language": "none",
    "task.normalization": "by task and language",
    "task.target_language": "none",
    "task.image_size": "the backbone's",
    "task.num_beams": "the backbone's",
    "task.vocabulary": "inferred",
    "data.validation": "held out",
    "data.test": "none",
    "data.hub": "none",
    "data.encoding": "UTF-8",
    "data.delimiter": "found",
    "data.limit_per_label": "all",
    "data.limit_train": "all",
    "data.limit_validation": "all",
    "data.hub.revision": "the newest",
    "data.hub.config": "the only one",
    "train.batch_size": f"`{DEFAULT_BATCH_SIZE}`",
    "train.batch_tokens": "none",
    "train.epochs": f"`{DEFAULT_EPOCHS}`",
    "train.steps": "none",
    "train.evaluate_every": "an epoch",
    "train.metric": "the task's",
    "train.greater_is_better": "by the metric",
    "train.patience": "off",
    "train.checkpoint_every": "each evaluation",
}
RECIPES_INTRODUCTION = """# Recipe keys

A recipe is a YAML file that decides everything about a training run. The folder `recipes/` has
working examples. You can change any key on the command line:

```console
$ adapterhub train desk.yaml train.epochs=5 adapter.rank=8
```

Relative paths start from the working directory. An unknown key, a wrong type, a missing file or
field, an empty split or an unknown target module is reported in one line that names its place,
before torch and any weight is loaded. A key that peft or transformers names in another way
(`optimizer.lr`, `adapter.lora_alpha`) is answered with its name here.
[Train on images](images.md) and [Train on recordings](audio.md) describe data sets of files.

One process at a time trains in a run folder. With `--resume` a run continues from its last
checkpoint, whose files must match the digests that were written with them; a full disk ends a run
with one line and leaves the last checkpoint whole.

`python docs/make_reference.py` writes this page from `adapterhub/training/recipe.py`.
"""
CLI_INTRODUCTION = """# Command line reference

`adapterhub --help` lists all commands, `adapterhub COMMAND -h` the options of one. Most commands
take `--json` and then print one JSON document. `adapterhub --install-completion` installs
completion for your shell, which also completes the names of stored adapters.

Errors are one line on standard error. The exit code is 2 for a wrong argument, recipe or
reference, 3 for data, 4 for an unknown adapter, 5 for damaged files, 6 for another backbone, 7 for
a backbone that cannot be loaded, 8 for a failed promotion, 9 for a signature, 10 for the Hub, 130
for an interrupted run, and 1 for anything else.

`python docs/make_reference.py` writes this page from `adapterhub/cli/`.
"""
BEGIN, END = "<!-- settings -->\n", "<!-- end of settings -->\n"


def pages() -> dict[str, str]:
    """Return the content of each page by file name."""
    return {"recipes.md": recipe_page(), "cli.md": cli_page(), "serving.md": serving_page()}


def recipe_page() -> str:
    """Return the page of recipe keys."""
    return "\n".join([RECIPES_INTRODUCTION, *(_recipe_section(*each) for each in SECTIONS.items())])


def cli_page() -> str:
    """Return the page of the command line."""
    commands = get_command(build_app()).commands
    lines = [CLI_INTRODUCTION]
    for panel, names in COMMANDS.items():
        lines += [f"## {panel}", ""]
        for name in names:
            lines += _command(commands[name], name)
    return "\n".join(lines).rstrip() + "\n"


def serving_page() -> str:
    """Return the page on serving with its table of settings up to date."""
    text = (DOCS / "serving.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    meanings, sizes = arguments(ServerSettings), arguments(EngineConfig)
    table = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in ServerSettings.model_fields.items():
        meaning = meanings[name]
        text = sizes[name] if meaning.lower().startswith("see ") else meaning
        table.append(f"| `{name}` | {_shown(field.default)} | {text} |")
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}" + "\n".join([*table, f"{END}{after}"])


def arguments(described: type) -> dict[str, str]:
    """Return each field's description from the ``Args`` section of a class's docstring."""
    docs = (inspect.getdoc(each) or "" for each in described.__mro__)
    section = next((doc.partition("Args:\n")[2] for doc in docs if "Args:\n" in doc), "")
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, flags=re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".").replace("``", "`") for name, text in found}


def _recipe_section(title: str, model: type[BaseModel]) -> str:
    meanings = arguments(model)
    lines = [f"## {title}", "", "| key | default | meaning |", "|---|---|---|"]
    for key, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if field.is_required():
            shown = "required"
        elif isinstance(default, BaseModel):
            shown = "see below"
        elif default is None:
            shown = EFFECTIVE_DEFAULTS[f"{title}.{key}"]
        else:
            shown = f"`{_shown(default)}`" if _shown(default) else ""
        lines.append(f"| `{key}` | {shown} | {meanings.get(key, '')} |")
    return "\n".join([*lines, ""])


def _command(command: Any, name: str) -> Iterator[str]:
    """Yield the lines about a command, or about each command of a group."""
    if hasattr(command, "commands"):
        for inner, each in command.commands.items():
            if not each.hidden:
                yield from _command(each, f"{name} {inner}")
        return
    arguments = {_usage(p): p.help for p in command.params if p.param_type_name == "argument"}
    yield from (f"### {name}", "", command.help, "")
    yield from ("```text", " ".join(["adapterhub", name, *arguments, "[OPTIONS]"]), "```", "")
    yield from ("| argument or option | default | meaning |", "|---|---|---|")
    for usage, meaning in arguments.items():
        cell = usage.replace("|", "\\|")
        yield f"| `{cell}` |  | {meaning} |"
    for option in command.params:
        if option.param_type_name == "option":
            flags = ", ".join([*option.opts, *option.secondary_opts])
            default = "" if option.default is False else _shown(option.default)
            yield f"| `{flags}` | {'required' if option.required else default} | {option.help} |"
    yield ""


def _usage(argument: Any) -> str:
    text = (argument.metavar or argument.name.upper()) + ("…" if argument.nargs == -1 else "")
    return text if argument.required or text.startswith("[") else f"[{text}]"


def _shown(default: object) -> str:
    if default in (None, "", ()):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, float):
        return f"{default:g}"
    return str(list(default) if isinstance(default, tuple) else default)


if __name__ == "__main__":
    for name, content in pages().items():
        (DOCS / name).write_text(content, encoding="utf-8")
