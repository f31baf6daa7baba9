"""Verified artifact folders from a Hub, cached by digest and bounded in bytes."""

from __future__ import annotations

import secrets
import shutil
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock

from adapterhub.adapters.admission import check_loadable
from adapterhub.adapters.artifact_folder import read_verified
from adapterhub.adapters.manifest import MANIFEST_NAME, MAX_MANIFEST, Manifest, digest_of
from adapterhub.errors import (
    ArtifactError,
    NotFoundError,
    RefError,
    RegistryError,
    SignatureError,
    TransferError,
)
from adapterhub.hub.artifact_folders import ResolvedArtifact
from adapterhub.hub.client.address import HubAddress
from adapterhub.hub.client.failures import translate_hub_errors
from adapterhub.hub.client.limits import MAX_LISTING, response_limit
from adapterhub.hub.client.remote import Remote, read_remote
from adapterhub.refs import DEFAULT_ALIAS
from adapterhub.registry.layout import STALE_SECONDS
from adapterhub.registry.policy import trusted_signer
from adapterhub.registry.sigstore import MAX_SIGNATURE, is_signature_name, parse_signature

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from huggingface_hub import HfApi

    from adapterhub.refs import AdapterRef
    from adapterhub.registry.signatures import TrustedKey
    from adapterhub.registry.sigstore import Signature

#: Default size of the cache in bytes.
MAX_BYTES = 10 * 1024**3
#: Seconds since its last use during which an artifact is not deleted: a request that waits for
#: its turn may still read the folder.
GRACE_SECONDS = 3600.0
#: Most commits whose digest is remembered.
_MAX_COMMITS = 65536
#: Suffix of folders that are being written or deleted.
_PARTIAL = ".partial"
_NOT_FOUND = 404

_K = TypeVar("_K")
_V = TypeVar("_V")


class HubFolders:
    """Artifact folders of the repositories of a Hub; see ``ArtifactFolders``.

    An alias is a branch, a tag or, at ``adapterhub hub serve``, an alias of its registry; version 3
    is the tag ``v3``. A name alone is its revision ``prod``, or else its main branch. Every byte is
    compared with the digests of the manifest when it was downloaded and whenever a folder is
    fetched from the cache.

    Args:
        api: Client of the Hub.
        cache: Folder of the cache, which several processes may share.
        owner: Owner of names without one; such names are errors if empty.
        max_bytes: Largest size of the cache.
        trust: Returns the trusted keys if signatures are required, else ``None``.
    """

    def __init__(
        self,
        api: HfApi,
        cache: Path,
        *,
        owner: str = "",
        max_bytes: int = MAX_BYTES,
        trust: Callable[[], tuple[TrustedKey, ...] | None] = lambda: None,
    ) -> None:
        self._api = api
        self._cache = cache
        self._owner = owner
        self._max_bytes = max_bytes
        self._trust = trust
        self._lock = Lock()
        #: repository and commit to the digest of its artifact
        self._digests: OrderedDict[tuple[str, str], str] = OrderedDict()
        #: reference with a digest to the repository and the commit that it was found in
        self._found: OrderedDict[str, tuple[str, str]] = OrderedDict()
        cache.mkdir(parents=True, exist_ok=True)
        for stale in cache.glob(f"*{_PARTIAL}"):
            # the remains of a killed process
            if stale.stat().st_mtime < time.time() - STALE_SECONDS:
                shutil.rmtree(stale, ignore_errors=True)

    def resolve(self, ref: AdapterRef) -> ResolvedArtifact:
        """Resolve a reference by one request, and two more for a new commit."""
        name = self._repository(ref)
        commit = self._commit(name, ref)
        with self._lock:
            digest = self._digests.get((name, commit))
        if digest is None:
            digest = self._read_digest(name, commit)
        pinned = f"{name}@{digest}"
        with self._lock:
            _remember(self._digests, (name, commit), digest)
            _remember(self._found, pinned, (name, commit))
        keys = self._trust()
        return ResolvedArtifact(pinned, digest, None if keys is None else (commit, keys))

    def fetch(self, resolved: ResolvedArtifact) -> Path:
        """Return the folder of a resolved artifact, downloaded if it is not in the cache."""
        with self._lock:
            name, commit = self._found[resolved.ref]
        folder = self._folder(resolved.digest)
        with FileLock(self._cache / f"{folder.name}.lock"):
            if not self._is_intact(folder):
                self._download(name, commit, folder)
            self.keep(resolved.digest)
            keys = self._trust()
            if keys is not None:
                self._require_signature(name, commit, folder, keys)
        return folder

    def keep(self, digest: str) -> None:
        """Note that an artifact is still in use, so that it stays in the cache."""
        folder = self._folder(digest)
        if folder.exists():
            # the manifest's time is that of the last use; the files themselves never change
            (folder / MANIFEST_NAME).touch()

    def _folder(self, digest: str) -> Path:
        return self._cache / digest.removeprefix("sha256:")

    def _repository(self, ref: AdapterRef) -> str:
        if "/" in ref.name:
            return ref.name
        if not self._owner:
            raise RefError(
                "has no owner, and names on a Hub are owner/name",
                place=str(ref),
                hint="Write owner/name, or add the owner to the URL of the Hub",
            )
        return f"{self._owner}/{ref.name}"

    def _commit(self, name: str, ref: AdapterRef) -> str:
        selector = ref.alias or ref.digest
        if ref.version is not None:
            selector = f"v{ref.version}"
        if selector is not None:
            return self._commit_of(name, selector)
        try:
            return self._commit_of(name, DEFAULT_ALIAS)
        except NotFoundError:
            return self._commit_of(name, None)

    def _commit_of(self, name: str, revision: str | None) -> str:
        place = str(HubAddress(name, revision))
        try:
            with translate_hub_errors(place), response_limit(place, MAX_LISTING):
                return str(self._api.model_info(name, revision=revision).sha)
        except TransferError as error:
            if error.status == _NOT_FOUND:
                raise NotFoundError(error.problem, place=place) from error
            raise

    def _read_digest(self, name: str, commit: str) -> str:
        with self._staging() as staging:
            return digest_of(self._manifest(self._remote(name, commit, staging), staging))

    def _remote(self, name: str, commit: str, staging: Path) -> Remote:
        # a cache of the client's own would keep everything a second time, without a bound
        remote = read_remote(self._api, HubAddress(name, commit), commit)
        return replace(remote, cache=staging / "client")

    def _manifest(self, remote: Remote, staging: Path) -> bytes:
        if MANIFEST_NAME not in remote.files:
            raise ArtifactError(
                f"has no {MANIFEST_NAME}",
                place=str(remote.address),
                hint="Import it with adapterhub pull, and push it to your Hub",
            )
        folder = staging / "artifact"
        folder.mkdir(exist_ok=True)
        return remote.fetch(MANIFEST_NAME, folder, limit=MAX_MANIFEST).read_bytes()

    def _download(self, name: str, commit: str, folder: Path) -> None:
        with self._staging() as staging:
            remote = self._remote(name, commit, staging)
            content = self._manifest(remote, staging)
            manifest = Manifest.from_json(content)
            place = str(remote.address)
            if digest_of(content) != f"sha256:{folder.name}":
                raise ArtifactError(f"is not the artifact {folder.name}", place=place)
            size = len(content) + sum(entry.size for entry in manifest.files.values())
            self._make_room(size, place)
            artifact = staging / "artifact"
            for file, entry in manifest.files.items():
                if file not in remote.files:
                    raise ArtifactError(f"{file!r} is listed and missing", place=place)
                remote.fetch(file, artifact, limit=entry.size, sha256=entry.sha256)
            check_loadable(artifact, manifest, place)
            artifact.rename(folder)

    def _is_intact(self, folder: Path) -> bool:
        """Return whether the cache has an artifact; a damaged one is deleted."""
        if not folder.exists():
            return False
        try:
            content = (folder / MANIFEST_NAME).read_bytes()
            read_verified(folder, Manifest.from_json(content))
            if digest_of(content) == f"sha256:{folder.name}":
                return True
        except (OSError, ArtifactError):
            pass
        self._delete(folder)
        return False

    def _make_room(self, size: int, place: str) -> None:
        """Delete what was used least recently until ``size`` more bytes fit."""
        used = sorted(
            (path.stat().st_mtime, path.parent)
            for path in self._cache.glob(f"*/{MANIFEST_NAME}")
            if path.parent.suffix != _PARTIAL
        )
        sizes = {folder: _size(folder) for _, folder in used}
        left = self._max_bytes - size - sum(sizes.values())
        for last_use, folder in used:
            if left >= 0 or last_use > time.time() - GRACE_SECONDS:
                break
            self._delete(folder)
            left += sizes[folder]
        if left < 0:
            raise RegistryError(
                f"needs {size} bytes, and the cache of {self._max_bytes} bytes is full of adapters "
                f"that were used in the last {GRACE_SECONDS / 60:.0f} minutes",
                place=place,
                hint="Allow a larger cache with ADAPTERHUB_CACHE_GB",
            )

    def _delete(self, folder: Path) -> None:
        gone = folder.with_name(f"{secrets.token_hex(16)}{_PARTIAL}")
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _require_signature(
        self, name: str, commit: str, folder: Path, keys: tuple[TrustedKey, ...]
    ) -> None:
        place = f"{name}@sha256:{folder.name}"
        with self._staging() as staging:
            remote = self._remote(name, commit, staging)
            listed = [file for file in sorted(remote.files) if is_signature_name(file)]
            found = [
                parse_signature(remote.fetch(file, staging, limit=MAX_SIGNATURE).read_bytes(), file)
                for file in listed
            ]
        by_key = {signature.key: partial(_same, signature) for signature in found}
        signer, problem = trusted_signer(folder, by_key, keys)
        if signer is None:
            raise SignatureError(
                problem, place=place, hint="Sign it on the Hub, or trust its signer on this machine"
            )

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        folder = self._cache / f"{secrets.token_hex(16)}{_PARTIAL}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _same(signature: Signature) -> Signature:
    return signature


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def _remember(table: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > _MAX_COMMITS:
        table.popitem(last=False)
