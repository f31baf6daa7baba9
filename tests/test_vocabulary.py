"""The project speaks the field's language: retired names and phrases do not come back."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUFFIXES = {".py", ".md", ".js", ".html", ".toml", ".yaml", ".jinja"}
#: Retired word or phrase, and the term to use.
RETIRED = {
    r"\b(?:training|validation|evaluation|data) rows?\b": "example",
    r"\brank rows?\b": "rank slots",
    r"\b[Pp]ictures?\b|_pictures?\b": "image",
    r"\b[Ss]ingle pass(?:es)?\b|\bSinglePass": "pooling request, PoolingRunner",
    r"\b(?:Lora|Embedding|Norm)Site\b": "LoraLinear, LoraEmbedding, AdaptedNorm",
    r"\bHostTier\b|\bhost tier\b": "HostCache",
    r"\bbare (?:backbone|model|row|body)\b": "base model, without adapter",
    r"\b(?:max_rows|step_tokens|cache_positions|rank_rows|pass_tokens)\b": "fields of EngineConfig",
    r"\bforetold\b": "predicted",
    r"\bheed(?:s|ed)?\b": "use, honour",
    r"\badopt(?:s|ed|ing)?\b": "import-peft",
    r"\b(?:is|are|was) told\b|\btold of each\b": "reported",
    r"[Ww]hat it inherited": "bias audit",
    r"[Ww]hose turn it is": "rate limits and fairness",
    r"wrong and sure|by heart|the machine's own|a key worthless": "plain words",
    r"\bhow it fares\b|\bcomes? to nothing\b": "plain words",
}
#: Where old names have to stand: tables of renames, and this list.
EXCEPTIONS = {
    "CHANGELOG.md",
    "adapterhub/cli/main.py",
    "adapterhub/server/settings.py",
    "tests/server/test_settings_sources.py",
    "tests/test_vocabulary.py",
}


def texts():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in SUFFIXES and name not in EXCEPTIONS and path.is_file():
            yield name, path.read_text(encoding="utf-8")


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")
def test_retired_words_do_not_come_back():
    found = [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}, say: {term}"
        for name, text in texts()
        for pattern, term in RETIRED.items()
        for match in re.finditer(pattern, text)
    ]
    assert not found, "\n".join(found)
