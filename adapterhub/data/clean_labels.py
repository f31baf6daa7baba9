"""Labels and tags as files have them, in one form: outer spaces, decimals, missing values, schemes.

Each change is reported in one line, and what is ambiguous is an error that names the
example.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING, Any

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from adapterhub.data.dataset import Dataset

#: What spreadsheets and data frames write for a missing value.
_MISSING = frozenset({"nan", "none", "null", "<na>", "#n/a", "n/a", "na"})
#: A whole number with decimals, as a column of numbers with a missing value is exported.
_WHOLE_DECIMAL = re.compile(r"-?\d+\.0+")
_BOOLEANS = frozenset({"true", "false"})
#: Characters without a width, which a label may have at its ends by copying: zero-width space,
#: non-joiner and joiner, word joiner, byte-order mark, soft hyphen.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
#: First letters of the tags of other schemes to those of BIO.
_SCHEMES = {
    "BIOES": {"E": "I", "S": "B"},
    "BILOU": {"L": "I", "U": "B"},
    "BMES": {"M": "I", "E": "I", "S": "B"},
    "BMEW": {"M": "I", "E": "I", "W": "B"},
}
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d{1,2})?")
#: Sets of similar labels that are shown.
_SHOWN = 5
_TAG = re.compile(r"O|[A-Z]-.+")


def clean_labels(dataset: Dataset, field: str, *, tagged: bool) -> Dataset:
    """Return a dataset whose labels are written in one form, with a note on each change.

    Args:
        dataset: Examples by the task's field names.
        field: Field of the label, of the labels, or of the tags.
        tagged: Whether the field holds tags in the scheme BIO, BIOES, BILOU, BMES or BMEW.

    Raises:
        DataError: naming the example whose label is a missing value, or no tag of a scheme.
    """
    counts: Counter[str] = Counter()
    change = _tag_change(dataset, field) if tagged else None

    def clean(example: dict[str, Any], index: int) -> dict[str, Any]:
        place = f"{dataset.place(index)}, field {field!r}"
        value = example.get(field)
        many = isinstance(value, list | tuple)
        if tagged and not many:
            raise DataError(f"must be a list of tags, not {value!r}", place=place)
        values: list[Any] = list(value or ()) if many else [value]
        cleaned = [
            _clean(each, place, counts, untyped=dataset.untyped, tagged=tagged) for each in values
        ]
        if change is not None:
            cleaned = [change(each) for each in cleaned]
        if tagged:
            _check_tags(cleaned, place)
        return {**example, field: cleaned if many else cleaned[0]}

    found = dataset.map(clean)
    notes = [f"{dataset.name}: {text.format(count)}" for text, count in sorted(counts.items())]
    if change is not None:
        notes.append(f"{dataset.name}: the tags are {_scheme(dataset, field)}, and are read as BIO")
    return found.noting(*notes)


def _clean(value: Any, place: str, counts: Counter[str], *, untyped: bool, tagged: bool) -> Any:
    if isinstance(value, float) and math.isnan(value):
        raise DataError("the label is missing (NaN)", place=place)
    if not isinstance(value, str):
        return value
    text = _stripped(value)
    if text != value:
        counts["spaces around {} labels were removed"] += 1
    composed = unicodedata.normalize("NFC", text)
    if composed != text:
        counts["{} labels are read in Unicode's composed form (NFC)"] += 1
        text = composed
    if not untyped or tagged:
        return text
    if text.casefold() in _MISSING:
        raise DataError(
            f"the label is {text!r}, which stands for a missing value in exported tables",
            place=place,
            hint="Remove the example; if it is the name of a class, give the class another name",
        )
    if text.casefold() in _BOOLEANS and text != text.casefold():
        counts["{} labels such as True are read as true"] += 1
        return text.casefold()
    if _WHOLE_DECIMAL.fullmatch(text):
        counts["{} labels such as 1.0 are read as whole numbers"] += 1
        return text.partition(".")[0]
    return text


def _stripped(text: str) -> str:
    """Return a text without spaces and invisible characters at its ends."""
    while (inner := text.strip().strip(_INVISIBLE)) != text:
        text = inner
    return text


def similar_labels(labels: Iterable[str]) -> list[str]:
    """Return a warning for each set of labels that are likely one, and for missing values.

    Such labels differ in case, spaces or form of their characters, or as numbers in zeros, signs
    and decimals. They stay different classes.
    """
    groups: dict[str, list[str]] = {}
    for label in labels:
        groups.setdefault(_likeness(label), []).append(label)
    alike = [group for group in groups.values() if len(group) > 1]
    missing = [label for label in labels if label.casefold() in _MISSING]
    return [
        *(
            f"warning: the labels {', '.join(map(repr, group))} stay apart; are they one class?"
            for group in alike[:_SHOWN]
        ),
        *(
            f"warning: {label!r} is a class; exported tables write it for a missing value"
            for label in missing[:_SHOWN]
        ),
    ]


def _likeness(label: str) -> str:
    """Return a text that is equal for labels that are likely one."""
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    if _NUMBER.fullmatch(text):
        return repr(float(text))
    return text


def _first_letters(dataset: Dataset, field: str) -> set[str]:
    return {
        tag[0]
        for example in dataset.examples
        for tag in (example.get(field) or ())
        if isinstance(tag, str) and _TAG.fullmatch(tag.strip())
    }


def _scheme(dataset: Dataset, field: str) -> str:
    """Return the scheme of the tags: ``BIO``, ``BIOES`` or ``BILOU``."""
    letters = _first_letters(dataset, field)
    if letters <= set("BIO"):
        return "BIO"
    # schemes that share the letters there are agree on what they mean
    return next((name for name in _SCHEMES if letters <= {*name, "O"}), "BIO")


def _tag_change(dataset: Dataset, field: str) -> Callable[[Any], Any] | None:
    """Return the function that turns a tag of the dataset's scheme into BIO, if any."""
    letters = _SCHEMES.get(_scheme(dataset, field))
    if letters is None:
        return None

    def change(tag: Any) -> Any:
        if not isinstance(tag, str) or tag[1:2] != "-":
            return tag
        return letters.get(tag[0], tag[0]) + tag[1:]

    return change


def _check_tags(tags: list[Any], place: str) -> None:
    for tag in tags:
        if not isinstance(tag, str):
            raise DataError(
                f"a tag is a name, not {tag!r}",
                place=place,
                hint="Write the names of the tags, such as B-PER, in place of their numbers",
            )
        if tag != "O" and not (tag[:2] in ("B-", "I-") and tag[2:]):
            raise DataError(
                f"{tag!r} is not a tag",
                place=place,
                hint="Tags are O, B-TYPE and I-TYPE (BIO), "
                "or those of BIOES, BILOU, BMES or BMEW throughout",
            )
