"""What a repository's ``README.md`` says about it, in the block of YAML that it begins with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from adapterhub.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CARD_NAME = "README.md"
#: Most bytes of a card that are read.
MAX_CARD = 256 * 1024
_FENCE = "---"


@dataclass(frozen=True, slots=True)
class Card:
    """The metadata of a card.

    Args:
        data: as written, plain JSON.
        tags: what the repository is found by, sorted.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()

    @property
    def pipeline_tag(self) -> str | None:
        """The task, in the Hub's words."""
        return _word(self.data.get("pipeline_tag"))

    @property
    def library(self) -> str | None:
        """The library that reads the repository."""
        return _word(self.data.get("library_name"))


class _NoAliases(yaml.SafeLoader):
    """A loader without aliases, which a few lines can blow up to gigabytes with."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed")
        return super().compose_node(parent, index)


def parse_card(text: str) -> Card:
    """Read the metadata of a card; a card without any has an empty one.

    Raises:
        ArtifactError: when the block is no YAML mapping of plain values.
    """
    block = _block(text)
    if block is None:
        return Card()
    try:
        # a subclass of the safe loader
        found = yaml.load(block, Loader=_NoAliases)
        # dates become text, and whatever JSON can't hold is refused
        data = json.loads(json.dumps(found, default=str, allow_nan=False))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ArtifactError(f"has no valid metadata: {error}", place=CARD_NAME) from error
    if data is None:
        return Card()
    if not isinstance(data, dict):
        raise ArtifactError("must begin with keys and values", place=CARD_NAME)
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
