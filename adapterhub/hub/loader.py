"""Loading of adapters by reference in background threads.

An adapter on a Hub is pulled into the local registry and becomes a version like any other. The
files of a version are mapped into memory and not cached here; the page cache serves repeated loads.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

from adapterhub.adapters.artifact import Artifact, map_artifact
from adapterhub.engine.adapter_fetcher import background_pool
from adapterhub.errors import NotFoundError
from adapterhub.hub.client.address import SCHEME, parse_address
from adapterhub.hub.client.pulling import pull
from adapterhub.refs import DIGEST_PREFIX
from adapterhub.registry.policy import trusted_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from huggingface_hub import HfApi

    from adapterhub.registry import Registry
    from adapterhub.registry.signatures import StoredSignature, TrustedKey
    from adapterhub.registry.version import Version

#: Largest number of resolved versions that are remembered until they are fetched.
MAX_RESOLVED = 65536
#: Number of adapters that are read from disk, and pulled from a Hub, at once.
DISK_THREADS, HUB_THREADS = 1, 2
#: Coarsest clock of a file system in nanoseconds.
CLOCK_NS = 20_000_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Checked:
    """An artifact folder that was verified in this process.

    Args:
        folder: Folder of the artifact.
        stamps: Device, inode, size and times of each file when it was verified.
        proof: Trusted keys and signatures then, if signatures are required.
    """

    folder: Path
    stamps: dict[str, tuple[int, ...]]
    proof: _Proof | None


_Proof = tuple[tuple["TrustedKey", ...], tuple["StoredSignature", ...]]


class AdapterLoader:
    """Loads adapters from the registry and, through it, from a Hub; an ``AdapterSource``.

    Every byte of an artifact is verified when it is first fetched in this process, and again when
    inode, size or time of change of a file differ. The policy on signatures is applied at every
    fetch. An error is passed to the requests that wait for the adapter; the next fetch tries again.

    Safe for use from several threads.

    Args:
        registry: Local registry.
        api: Client of the Hub; that of ``HF_ENDPOINT`` by default.
    """

    def __init__(self, registry: Registry, *, api: HfApi | None = None) -> None:
        self._registry = registry
        self._api = api
        self._disk = background_pool("adapterhub-disk", DISK_THREADS)
        # separate, so that slow downloads do not delay reads from disk
        self._hub = background_pool("adapterhub-hub", HUB_THREADS)
        self._lock = Lock()
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._checked: dict[str, _Checked] = {}
        self._fetching: dict[str, Future[Artifact]] = {}
        self._pulling: dict[str, Future[str]] = {}

    def resolve(self, ref: str) -> str | Future[str]:
        """Resolve a reference to a digest.

        Args:
            ref: Reference of the registry, ``hf://owner/repository@revision``, which is pulled, or
                the digest of a version that was resolved before.

        Returns:
            The digest, or its future if it has to be pulled.

        Raises:
            RefError: When it is malformed.
            NotFoundError: When the registry has no such version.
            RegistryError: When the registry cannot be read.
        """
        if ref.startswith(DIGEST_PREFIX):
            return ref
        if ref.startswith(SCHEME):
            address = parse_address(ref)

            def pulled() -> str:
                return self.register(pull(self._registry, address, api=self._api).version)

            return self._once(self._pulling, ref, self._hub, pulled)
        return self.register(self._registry.resolve(ref))

    def register(self, version: Version) -> str:
        """Register a resolved version for ``fetch`` and return its digest."""
        with self._lock:
            self._versions[version.digest] = version
            self._versions.move_to_end(version.digest)
            if len(self._versions) > MAX_RESOLVED:
                oldest, _ = self._versions.popitem(last=False)
                self._checked.pop(oldest, None)
        return version.digest

    def fetch(self, digest: str) -> Future[Artifact]:
        """Return the future of a resolved artifact, whose tensors are mapped files.

        The future raises:

            NotFoundError: When the version was removed and its files were collected.
            IntegrityError: Naming a damaged file.
            SignatureError: When a signature is required and none by a trusted key is valid.
            ArtifactError: When the artifact differs from its manifest.
        """
        return self._once(self._fetching, digest, self._disk, lambda: self._read(digest))

    def close(self) -> None:
        """Cancel pending work and wait for running work."""
        for pool in (self._hub, self._disk):
            pool.shutdown(cancel_futures=True)

    def _once(
        self, running: dict[str, Future[_T]], key: str, pool: Executor, do: Callable[[], _T]
    ) -> Future[_T]:
        """Submit work to a pool, or return the future of the same work in progress."""
        with self._lock:
            future = running.get(key)
            if future is not None:
                return future
            future = running[key] = pool.submit(do)
        # outside the lock, since the callback runs here if the work is done already
        future.add_done_callback(lambda _: self._done(running, key))
        return future

    def _done(self, running: dict[str, Future[_T]], key: str) -> None:
        with self._lock:
            running.pop(key, None)

    def _read(self, digest: str) -> Artifact:
        with self._lock:
            version, known = self._versions.get(digest), self._checked.get(digest)
        if version is None:
            raise NotFoundError("was not resolved by this loader", place=digest)
        proof = self._proof(version)
        if known is not None and known.proof == proof and _stamps(known.folder) == known.stamps:
            return map_artifact(known.folder, values=False)
        began = time.time_ns()
        folder = trusted_folder(self._registry, version)
        artifact = map_artifact(folder)
        stamps = _stamps(folder)
        # a file that changed during the check may have been read before the change
        if all(changed < began - CLOCK_NS for *_, changed in stamps.values()):
            with self._lock:
                self._checked[digest] = _Checked(folder, stamps, proof)
        return artifact

    def _proof(self, version: Version) -> _Proof | None:
        """Return the input of the policy on signatures, to detect its changes."""
        if not self._registry.requires_signed():
            return None
        return self._registry.trusted_keys(), self._registry.stored_signatures(version.digest)


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return values that change with the files; empty if the folder does not exist.

    The ctime of a Linux inode cannot be set, so a change in place is detected even if the
    modification time was restored.
    """
    try:
        stats = {path.name: path.stat() for path in folder.iterdir()}
    except FileNotFoundError:
        return {}
    return {
        name: (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for name, each in stats.items()
    }
