"""Grammar of adapter references, such as ``name@3`` and ``name@prod``, and of blends.

A name is ``part`` or ``owner/part``. ``@`` introduces a selector: a version number, an alias, or
a digest, whole or its first hex digits. Without a selector the latest version is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from adapterhub.errors import RefError

#: Alias of the highest version that was not removed; every name has it.
LATEST = "latest"
#: Alias whose version a name alone refers to.
DEFAULT_ALIAS = "prod"
#: Tag of versions that a name alone never refers to while there are others.
TRIAL_TAG = "trial"
DIGEST_PREFIX = "sha256:"
#: Maximum length of a name part and of an alias, in characters.
MAX_PART = 96
MAX_VERSION = 999_999_999
#: Minimum number of hex digits of an abbreviated digest.
MIN_DIGEST = 8
#: Maximum weight of an adapter in a blend, and maximum number of adapters.
MAX_WEIGHT = 100.0
MAX_BLENDED = 16

_PART = re.compile(r"[a-z0-9][a-z0-9._-]*")
_ALIAS = re.compile(r"[a-z][a-z0-9._-]*")
_TAG = re.compile(r"[a-z0-9][a-z0-9._:-]*")
_VERSION = re.compile(r"[1-9][0-9]*")
_NUMBER_LIKE = re.compile(r"[+-]?\.?[0-9].*", re.DOTALL)
_WEIGHT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_HEX = re.compile(r"[0-9a-f]*")

_NAME_HINT = (
    "Names have lower-case letters, digits, '.', '_' and '-', and begin with one of the first two"
)
_SELECTOR_HINT = "Write name, name@3, name@alias or name@sha256:…"


@dataclass(frozen=True, slots=True)
class AdapterRef:
    """Reference to a version of an adapter; ``str`` gives the text that parses to it.

    At most one of ``version``, ``alias`` and ``digest`` is given; without any of them it is the
    default version of the name, see ``Registry.resolve``.

    Args:
        name: ``part`` or ``owner/part``.
        version: Version number, counted from 1.
        alias: Word that begins with a letter.
        digest: ``sha256:`` and the first 8 to 64 hex digits of the digest.

    Raises:
        RefError: When a field is malformed, or several select the version.
    """

    name: str
    version: int | None = None
    alias: str | None = None
    digest: str | None = None

    @property
    def newest(self) -> AdapterRef:
        """This reference; the latest version instead of the default one of a name alone."""
        bare = self.version is None and self.alias is None and self.digest is None
        return AdapterRef(self.name, alias=LATEST) if bare else self

    def __post_init__(self) -> None:
        check_name(self.name)
        selectors = [x for x in (self.version, self.alias, self.digest) if x is not None]
        if len(selectors) > 1:
            raise RefError(
                "a version, an alias and a digest exclude each other",
                place=_place(self.name),
                hint=_SELECTOR_HINT,
            )
        if self.version is not None:
            _check_version(self.version, str(self))
        if self.alias is not None:
            check_alias(self.alias)
        if self.digest is not None:
            _check_digest(self.digest, str(self))

    def __str__(self) -> str:
        for selector in (self.version, self.alias, self.digest):
            if selector is not None:
                return f"{self.name}@{selector}"
        return self.name


def parse_ref(text: str) -> AdapterRef:
    """Parse a reference.

    Raises:
        RefError: When ``text`` is malformed.
    """
    name, at, selector = text.partition("@")
    check_name(name)
    if not at:
        return AdapterRef(name)
    if not selector:
        raise RefError("has nothing after '@'", place=_place(text), hint=_SELECTOR_HINT)
    if "@" in selector:
        raise RefError("has more than one '@'", place=_place(text), hint=_SELECTOR_HINT)
    if selector.startswith(DIGEST_PREFIX):
        return AdapterRef(name, digest=selector)
    if _VERSION.fullmatch(selector):
        return AdapterRef(name, version=_to_version(selector, text))
    return AdapterRef(name, alias=selector)


def parse_weighted(text: str) -> tuple[str, float]:
    """Split ``ref`` or ``ref*0.5`` into the unparsed reference and its weight.

    Raises:
        RefError: When the weight is not a number from -100 to 100.
    """
    ref, star, written = text.strip().partition("*")
    if not star:
        return ref, 1.0
    # float alone would take "nan", "1_0" and digits of other scripts
    weight = float(written) if _WEIGHT.fullmatch(written.strip()) else MAX_WEIGHT + 1
    if not abs(weight) <= MAX_WEIGHT:
        raise RefError(
            f"{written[:20]!r} is not a weight from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
            place=_place(text),
            hint="Write name@3*0.5",
        )
    return ref.strip(), weight


def parse_blend(text: str) -> tuple[tuple[str, float], ...]:
    """Split a blend, ``a@prod*0.7+b*0.3``, into unparsed references and weights.

    A reference without a weight has weight 1.

    Raises:
        RefError: When a weight is malformed, or there are too many references.
    """
    parts = text.split("+")
    if len(parts) > MAX_BLENDED:
        raise RefError(f"blends more than {MAX_BLENDED} adapters", place=_place(text))
    if not all(part.strip() for part in parts):
        raise RefError("has nothing beside '+'", place=_place(text), hint="Write a*0.7+b*0.3")
    return tuple(parse_weighted(part) for part in parts)


def check_name(name: str) -> None:
    """Require a well-formed name, ``part`` or ``owner/part``.

    Raises:
        RefError: When it is malformed.
    """
    place = _place(name, "name")
    if not name:
        raise RefError("is empty", place=place, hint=_SELECTOR_HINT)
    parts = name.split("/")
    if len(parts) > 2:
        raise RefError("has more than one '/'", place=place, hint="Write name or owner/name")
    for part in parts:
        _check_part(part, place)


def check_alias(alias: str) -> None:
    """Require a well-formed alias, which must not look like a number.

    Raises:
        RefError: When it is malformed.
    """
    place = _place(alias, "alias")
    if _NUMBER_LIKE.fullmatch(alias):
        raise RefError(
            "looks like a number and is not a version",
            place=place,
            hint="Versions are 1, 2, 3, …; an alias begins with a letter, "
            f"a digest with {DIGEST_PREFIX!r}",
        )
    if alias == DIGEST_PREFIX.rstrip(":"):
        raise RefError("has no digest", place=place, hint=_SELECTOR_HINT)
    if len(alias) > MAX_PART:
        raise RefError(f"is longer than {MAX_PART} characters", place=place)
    if not _ALIAS.fullmatch(alias) or ".." in alias:
        raise RefError(
            "is not an alias",
            place=place,
            hint=_lower_hint(alias, _ALIAS)
            or "An alias is a word of lower-case letters, digits, '.', '_' and '-'",
        )


def check_tag(tag: str) -> None:
    """Require a well-formed tag: a word, or ``key:value``.

    Raises:
        RefError: When it is malformed.
    """
    if len(tag) > MAX_PART or not _TAG.fullmatch(tag):
        raise RefError(
            "is not a tag",
            place=_place(tag, "tag"),
            hint=_lower_hint(tag, _TAG)
            or "A tag has lower-case letters, digits, '.', '_', '-' and ':', as in lang:en",
        )


def _check_part(part: str, place: str) -> None:
    if not part:
        raise RefError("has an empty part beside '/'", place=place, hint="Write owner/name")
    if any(char.isspace() or not char.isprintable() for char in part):
        raise RefError("contains a space or a control character", place=place, hint=_NAME_HINT)
    if ".." in part:
        raise RefError("contains '..'", place=place, hint=_NAME_HINT)
    if len(part) > MAX_PART:
        raise RefError(f"has a part longer than {MAX_PART} characters", place=place)
    if not _PART.fullmatch(part):
        raise RefError(
            "is not an adapter name", place=place, hint=_lower_hint(part, _PART) or _NAME_HINT
        )


def _check_version(version: int, text: str) -> None:
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise RefError(f"a version is a whole number from 1 to {MAX_VERSION}", place=_place(text))


def _to_version(digits: str, text: str) -> int:
    if len(digits) > len(str(MAX_VERSION)):
        raise RefError(f"a version is at most {MAX_VERSION}", place=_place(text))
    return int(digits)


def _check_digest(digest: str, text: str) -> None:
    digits = digest.removeprefix(DIGEST_PREFIX)
    if digits == digest or not _HEX.fullmatch(digits):
        raise RefError(
            f"a digest is {DIGEST_PREFIX!r} and lower-case hex digits", place=_place(text)
        )
    if not MIN_DIGEST <= len(digits) <= 64:
        raise RefError(
            f"a digest has {MIN_DIGEST} to 64 hex digits, found {len(digits)}", place=_place(text)
        )


def _lower_hint(text: str, pattern: re.Pattern[str]) -> str:
    lower = text.lower()
    return f"Did you mean {lower!r}?" if lower != text and pattern.fullmatch(lower) else ""


def _place(text: str, kind: str = "reference") -> str:
    shown = ascii(text)
    return f"{kind} {shown if len(shown) <= 80 else f'{shown[:80]}…'}"
