"""Data of a refresh: old examples read again, new ones split, and the mix to train on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from adapterhub.data.dataset import Dataset, concatenate
from adapterhub.data.splits import exclude, fingerprint, limit, require_examples, split_examples
from adapterhub.errors import DataError
from adapterhub.tasks.bio import repair
from adapterhub.tasks.classification import LabelIndex
from adapterhub.tasks.table import entry_of
from adapterhub.training.prepare import (
    PreparedData,
    count_leaks,
    load_more_examples,
    prepare_data,
    text_fields,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from adapterhub.training.recipe import Recipe
    from adapterhub.workflows.refresh.document import AddedFile

#: Share of the new examples that are held out for measuring the gain.
HELD_OUT = 0.2
#: Share of the other new examples that select the best weights.
VALIDATION = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class RefreshData:
    """All examples of a refresh.

    Args:
        old: Splits that the adapter was trained on and evaluated with.
        root: Fingerprint of each split of the first ancestor's recipe.
        new: All new examples.
        new_splits: Splits ``train``, ``validation`` and ``test`` of the new examples.
        file: File of the new examples.
        added: Files of earlier refreshes.
        seed: Split seed of the recipe.
    """

    old: Mapping[str, Dataset]
    root: Mapping[str, str]
    new: Dataset
    new_splits: Mapping[str, Dataset]
    file: AddedFile
    added: Sequence[AddedFile]
    seed: int

    def sample(self, examples: Dataset, count: int) -> Dataset:
        """Return ``count`` of the examples, different ones in each refresh.

        ``data.limit_train`` samples by the recipe's seed alone; sampling by it again would prefer
        its examples to all that earlier refreshes added.
        """
        return limit(examples, count, seed=self.seed + len(self.added))

    @property
    def old_split(self) -> str:
        """Name of the old split on which forgetting is measured."""
        return "test" if "test" in self.root else "validation"

    @property
    def old_examples(self) -> Dataset:
        """Examples of that split, and those that earlier refreshes held out."""
        examples = self.old[self.old_split]
        if self.old_split == "test" or "test" not in self.old:
            return examples
        return concatenate(examples, self.old["test"])

    @property
    def num_seen(self) -> int:
        """Number of new examples that are also, labels included, old training examples."""
        return len(self.new) - len(exclude(self.new, self.old["train"]))

    @property
    def held_out(self) -> Dataset:
        """New examples on which the gain is measured; neither parent nor child trains on them."""
        return exclude(self.new_splits["test"], self.old["train"])


def load_old_splits(
    recipe: Recipe, root: Mapping[str, str], added: Sequence[AddedFile], name: str
) -> dict[str, Dataset]:
    """Return the splits that an adapter was trained with, verified by their fingerprints.

    Raises:
        DataError: naming the missing path, or the file that has changed.
    """
    if recipe.data.hub is None:
        for split in ("train", "validation", "test"):
            where = getattr(recipe.data, split)
            for path in (where,) if isinstance(where, str) else where or ():
                _require_file(path, name, f", or pass its new path with data.{split}=PATH")
    old = dict(prepare_data(recipe).splits)
    for split, examples in old.items():
        _check_fingerprint(examples, root.get(split), name)
    for file in added:
        _require_file(file.path, name, "")
        examples = load_more_examples(recipe.data, recipe.task.name, Path(file.path), file.fields)
        _check_fingerprint(examples, file.fingerprint, name)
        for split, part in split_new(examples, recipe).items():
            old[split] = concatenate(old[split], part) if split in old else part
    return old


def split_new(new: Dataset, recipe: Recipe) -> dict[str, Dataset]:
    """Split new examples by content into ``train``, ``validation`` and ``test``.

    Raises:
        DataError: when a split would be empty.
    """
    seed, fields = recipe.data.split.seed, text_fields(new)
    rest, test = split_examples(new, held_out=HELD_OUT, seed=seed + 1, key_fields=fields)
    train, validation = split_examples(rest, held_out=VALIDATION, seed=seed, key_fields=fields)
    splits = {"train": train, "validation": validation, "test": test}
    for name, examples in splits.items():
        if not examples.examples:
            raise DataError(
                f"{len(new)} examples are too few: none is left for {name}",
                place=new.name,
                hint="Pass at least a few dozen new examples",
            )
    return splits


def mix_replay(
    data: RefreshData, recipe: Recipe, labels: Sequence[str], replay: float
) -> PreparedData:
    """Return the child's data: new examples, and a share of the old ones.

    The best weights are selected on as many old validation examples as new ones.
    """
    new, train = data.new_splits, data.new_splits["train"]
    num_replayed = round(replay * len(data.old["train"]))
    if num_replayed:
        train = concatenate(train, data.sample(data.old["train"], num_replayed))
    old_validation = data.sample(data.old["validation"], len(new["validation"]))
    splits = {
        "train": train,
        "validation": concatenate(new["validation"], old_validation),
        "test": new["test"],
    }
    for name, each in splits.items():
        require_examples(each, name)
    return PreparedData(
        splits=splits,
        label_counts=count_known_labels(train, recipe, labels),
        dropped=0,
        leaked=count_leaks(splits),
    )


def count_known_labels(examples: Dataset, recipe: Recipe, labels: Sequence[str]) -> dict[str, int]:
    """Return how often each of an adapter's labels occurs, in the order of its outputs."""
    if not labels:
        return {}
    counts = Counter(_label_names(examples, recipe, labels))
    return {label: counts[label] for label in labels}


def check_labels(examples: Dataset, recipe: Recipe, labels: Sequence[str], name: str) -> None:
    """Check that an adapter's head has an output for every label.

    Raises:
        DataError: naming the unknown labels, and how to proceed.
    """
    counts = Counter(_label_names(examples, recipe, labels)) if labels else Counter[str]()
    unknown = sorted(set(counts) - set(labels))
    if not unknown:
        return
    shown = ", ".join(f"{label!r} ({counts[label]} examples)" for label in unknown[:5])
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    raise DataError(
        f"has labels that {name} does not know: {shown}{more}",
        place=examples.name,
        hint="A head has an output for each label that it was trained on: train a new adapter "
        "on old and new examples together (adapterhub train RECIPE data.train=BOTH), or leave "
        "these examples out",
    )


def _label_names(examples: Dataset, recipe: Recipe, labels: Sequence[str]) -> Iterator[str]:
    """Yield each label of each example under its name in the head."""
    field = entry_of(recipe.task.name).label_field
    if not field:
        return
    index = LabelIndex(labels)
    for number, example in enumerate(examples.examples, start=1):
        value = example[field]
        values = value if isinstance(value, list | tuple) else [value]
        names = [index.name(each, number, field) for each in values]
        yield from repair(names) if field == "tags" else names


def _require_file(where: str, name: str, alternative: str) -> None:
    if not Path(where).exists() and not has_magic(where):
        raise DataError(
            f"the examples that {name} was trained on are not here",
            place=where,
            hint="Restore the file, run the command in the folder that this path is relative to"
            f"{alternative or ', or put a link there'}",
        )


def _check_fingerprint(examples: Dataset, expected: str | None, name: str) -> None:
    if expected is not None and fingerprint(examples) != expected:
        raise DataError(
            f"is not what {name} was trained on",
            place=examples.name,
            hint="Restore the original file: forgetting can only be measured on the same examples",
        )
