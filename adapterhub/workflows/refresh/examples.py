"""Rows of a refresh: the old ones found again, the new ones split, and both mixed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterhub.data.dataset import Dataset, joined
from adapterhub.data.fingerprint import fingerprint
from adapterhub.data.splits import limit, repeated, require_examples, split_examples, unlike
from adapterhub.errors import DataError
from adapterhub.tasks.bio import repair
from adapterhub.tasks.labels import LabelIndex
from adapterhub.tasks.table import entry_of, fields_of
from adapterhub.training.prepare import PreparedData, load_examples, prepare_data, text_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.training.recipe import Recipe
    from adapterhub.workflows.refresh.document import AddedFile

#: Share of the new rows that nothing learns from and nothing is chosen by.
HELD_OUT = 0.2
#: Share of the other new rows by which the best weights are chosen.
VALIDATION = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class RefreshExamples:
    """All rows of a refresh.

    Args:
        old: split name to the rows that the adapter was made with.
        root: split name to the fingerprint of the rows that its first ancestor's recipe names.
        new: all of the new rows.
        parts: ``train``, ``validation`` and ``test`` of the new rows.
        file: where they are.
        earlier: number of refreshes before this one.
        seed: of the recipe's splits.
    """

    old: Mapping[str, Dataset]
    root: Mapping[str, str]
    new: Dataset
    parts: Mapping[str, Dataset]
    file: AddedFile
    earlier: int
    seed: int

    def draw(self, rows: Dataset, count: int) -> Dataset:
        """Return ``count`` of the rows, others in each refresh.

        Rows that ``data.limit_train`` drew by the recipe's seed come first by that seed, before
        all that a refresh added; drawn by it again they would be far too many.
        """
        return limit(rows, count, seed=self.seed + self.earlier)

    @property
    def judged_by(self) -> str:
        """The old split on which forgetting is measured."""
        return "test" if "test" in self.root else "validation"

    @property
    def judged(self) -> Dataset:
        """The rows of that split, and those that earlier refreshes held out."""
        rows = self.old[self.judged_by]
        if self.judged_by == "test" or "test" not in self.old:
            return rows
        return joined(rows, self.old["test"])

    @property
    def learned_before(self) -> int:
        """How many of the new rows, answers included, are old training rows."""
        return len(self.new) - len(unlike(self.new, self.old["train"]))

    @property
    def held_out(self) -> Dataset:
        """The new rows on which the gain is measured; neither parent nor child learned them."""
        return unlike(self.parts["test"], self.old["train"])


def read_new_examples(recipe: Recipe, path: Path, fields: Mapping[str, str] | None) -> Dataset:
    """Read a file as the recipe reads its data.

    Args:
        recipe: of the adapter.
        path: of the file.
        fields: the task's field to the file's; the recipe's where ``None``.

    Raises:
        DataError: naming file and row.
    """
    section = recipe.data
    changes: dict[str, Any] = {
        "hub": None,
        "format": "conll" if section.format == "conll" else "auto",
        "fields": dict(section.fields if fields is None else fields),
    }
    return load_examples(section.model_copy(update=changes), recipe.task.name, str(path))


def find_old(
    recipe: Recipe, root: Mapping[str, str], added: Sequence[AddedFile], name: str
) -> dict[str, Dataset]:
    """Return the rows that an adapter was made with, by split, each checked to be the same.

    Args:
        recipe: of the adapter.
        root: fingerprint of each split that the recipe names, as recorded.
        added: files that earlier refreshes added.
        name: of the adapter, for messages.

    Raises:
        DataError: naming the path that is needed, or the file that is another one now.
    """
    if recipe.data.hub is None:
        for split in ("train", "validation", "test"):
            where = getattr(recipe.data, split)
            if where is not None:
                _require(where, name, f", or say where it is now with data.{split}=PATH")
    old = dict(prepare_data(recipe).splits)
    for split, rows in old.items():
        _check(rows, root.get(split), name)
    for file in added:
        _require(file.path, name, "")
        rows = read_new_examples(recipe, Path(file.path), file.fields)
        _check(rows, file.fingerprint, name)
        for split, part in split_new(rows, recipe).items():
            old[split] = joined(old[split], part) if split in old else part
    return old


def split_new(rows: Dataset, recipe: Recipe) -> dict[str, Dataset]:
    """Split new rows by content into ``train``, ``validation`` and ``test``.

    Raises:
        DataError: when a split would be empty.
    """
    seed, fields = recipe.data.split.seed, text_fields(rows)
    rest, test = split_examples(rows, held_out=HELD_OUT, seed=seed + 1, key_fields=fields)
    train, validation = split_examples(rest, held_out=VALIDATION, seed=seed, key_fields=fields)
    parts = {"train": train, "validation": validation, "test": test}
    for name, part in parts.items():
        if not part.examples:
            raise DataError(
                f"{len(rows)} rows are too few: none is left for {name}",
                place=rows.name,
                hint="Give some dozens of new rows at least",
            )
    return parts


def mix(
    rows: RefreshExamples, recipe: Recipe, labels: Sequence[str], replay: float
) -> PreparedData:
    """Return what the child learns from: new rows, and a share of the old ones.

    The best weights are chosen by as many old validation rows as new ones, so that neither the
    old nor the new decides alone.

    Args:
        rows: old and new.
        recipe: of the child.
        labels: of the parent, in the order of its head's outputs.
        replay: share of the old training rows, in [0, 1].
    """
    parts = rows.parts
    again = round(replay * len(rows.old["train"]))
    train = parts["train"]
    if again:
        train = joined(train, rows.draw(rows.old["train"], again))
    chosen = rows.draw(rows.old["validation"], len(parts["validation"]))
    splits = {
        "train": train,
        "validation": joined(parts["validation"], chosen),
        "test": parts["test"],
    }
    for name, each in splits.items():
        require_examples(each, name)
    fields = text_fields(train)
    return PreparedData(
        splits=splits,
        label_counts=counts_of(train, recipe, labels),
        dropped=0,
        leaked={n: repeated(train, each, fields) for n, each in splits.items() if n != "train"},
    )


def counts_of(rows: Dataset, recipe: Recipe, labels: Sequence[str]) -> dict[str, int]:
    """Return how often each of an adapter's labels is in rows, in the order of its outputs."""
    if not labels:
        return {}
    counts = Counter(_label_names(rows, recipe, labels))
    return {label: counts[label] for label in labels}


def refuse_unknown_labels(rows: Dataset, recipe: Recipe, labels: Sequence[str], name: str) -> None:
    """Refuse rows with labels for which the adapter's head has no output.

    Raises:
        DataError: naming them, and what to do.
    """
    if not labels:
        return
    counts = Counter(_label_names(rows, recipe, labels))
    unknown = sorted(set(counts) - set(labels))
    if not unknown:
        return
    shown = ", ".join(f"{label!r} ({counts[label]} rows)" for label in unknown[:5])
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    raise DataError(
        f"has labels that {name} does not know: {shown}{more}",
        place=rows.name,
        hint="A head has an output for each label that it was trained on: train a new adapter "
        "on old and new rows together (adapterhub train RECIPE data.train=BOTH), or leave "
        "these rows out",
    )


def _label_names(rows: Dataset, recipe: Recipe, labels: Sequence[str]) -> Iterator[str]:
    """Yield each label of each row, as the head calls it."""
    task = recipe.task.name
    if entry_of(task).count_labels is None:
        return
    tagged = "tags" in fields_of(task)[0]
    field, index = "tags" if tagged else "label", LabelIndex(labels)
    for number, row in enumerate(rows.examples, start=1):
        value = row[field]
        values = value if isinstance(value, list | tuple) else [value]
        names = [index.name(each, number, field) for each in values]
        yield from repair(names) if tagged else names


def _require(where: str, name: str, otherwise: str) -> None:
    if not Path(where).is_file():
        raise DataError(
            f"the rows that {name} was trained on are needed here, and are not there",
            place=where,
            hint="Put the file back, start in the folder from which this path leads to it"
            f"{otherwise or ', or put a link there'}",
        )


def _check(rows: Dataset, expected: str | None, name: str) -> None:
    if expected is not None and fingerprint(rows) != expected:
        raise DataError(
            f"is not what {name} was trained on",
            place=rows.name,
            hint="Forgetting can only be measured on the rows of then; put that file back",
        )
