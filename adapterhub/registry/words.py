"""The words of a text as they are stored and searched: lower case, without accents."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+")


def plain_words(text: str) -> list[str]:
    """Return runs of letters and digits, folded so that ``Königsberg`` is ``konigsberg``."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return _WORD.findall("".join(char for char in apart if not unicodedata.combining(char)))
