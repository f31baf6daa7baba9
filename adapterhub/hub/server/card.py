"""Model cards: the YAML block at the beginning of ``README.md``."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from adapterhub.adapters.strict_json import check_plain
from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CARD_NAME = "README.md"
#: Largest size of a card in bytes.
MAX_CARD = 256 * 1024
#: Largest size of the metadata in characters: a parser of YAML takes seconds for more.
MAX_METADATA = 64 * 1024
_FENCE = "---"


@dataclass(frozen=True, slots=True)
class Card:
    """The metadata of a card.

    Args:
        data: Metadata as plain JSON.
        tags: Tags to find the repository by, sorted.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def pipeline_tag(self) -> str | None:
        """Task of the model, in the terms of the Hub."""
        return _word(self.data.get("pipeline_tag"))

    @property
    def library(self) -> str | None:
        """Library that loads the model."""
        return _word(self.data.get("library_name"))


class _NoAliases(yaml.SafeLoader):
    """A safe loader without aliases, which can expand a few lines to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def parse_card(text: str) -> Card:
    """Parse the metadata of a card, which may be empty."""
    block = _block(text)
    if block is None:
        return Card()
    if len(block) > MAX_METADATA:
        problem = f"has {len(block)} characters of metadata, the limit is {MAX_METADATA}"
        raise ArtifactError(problem, place=CARD_NAME)
    try:
        # a subclass of the safe loader
        found = yaml.load(block, Loader=_NoAliases)
        # dates become text; values that JSON does not support are rejected
        data = json.loads(json.dumps(found, default=str, allow_nan=False))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"has no valid metadata: {error}", place=CARD_NAME) from error
    if data is None:
        return Card()
    if not isinstance(data, dict):
        raise ArtifactError("must begin with keys and values", place=CARD_NAME)
    check_plain(data, CARD_NAME)
    return Card(data, tuple(sorted(set(_tags(data)))))


def _block(text: str) -> str | None:
    lines = text.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE:
        return None
    for end, line in enumerate(lines[1:], start=1):
        if line.strip() == _FENCE:
            return "\n".join(lines[1:end])
    return None


def _tags(data: Mapping[str, Any]) -> Iterator[str]:
    yield from _words(data.get("tags"))
    yield from _words(data.get("library_name"))
    yield from _words(data.get("pipeline_tag"))
    yield from _words(data.get("language"))
    yield from (f"license:{word}" for word in _words(data.get("license")))
    yield from (f"dataset:{word}" for word in _words(data.get("datasets")))
    for word in _words(data.get("base_model")):
        yield f"base_model:{word}"
        yield f"base_model:adapter:{word}"


def _words(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [word for word in map(_word, values) if word]


def _word(value: Any) -> str | None:
    return value.strip()[:200] if isinstance(value, str) and value.strip() else None
