"""From a reference to an adapter that can be served, off the thread that serves.

The tiers below host memory: a Hub, this machine's registry on disk, and its files mapped into
memory. Disk is the registry's own: what is pulled from a Hub becomes a version like any other,
and ``Registry.collect`` takes away what no version has. Nothing is held here but what is on its
way; who asks again later reads the mapped file again, which the page cache mostly answers.
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
from adapterhub.registry.trust import trusted_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future
    from pathlib import Path

    from huggingface_hub import HfApi

    from adapterhub.registry import Registry
    from adapterhub.registry.signatures import StoredSignature
    from adapterhub.registry.trust import TrustedKey
    from adapterhub.registry.version import Version

#: Most versions that are remembered from when they were resolved until they are fetched.
MAX_RESOLVED = 65536
#: Most adapters that are fetched from disk, and pulled from a Hub, at once.
DISK_THREADS, HUB_THREADS = 1, 2
#: Coarsest clock that file systems take their times from, in nanoseconds.
CLOCK_NS = 20_000_000

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Checked:
    """A folder whose every byte was compared with its digest in this process.

    Args:
        folder: of the artifact.
        stamps: file name to device, inode, size and times of change, since when it was compared.
        proof: whose signatures there were and whose counted, where one was asked for.
    """

    folder: Path
    stamps: dict[str, tuple[int, ...]]
    proof: _Proof | None


_Proof = tuple[tuple["TrustedKey", ...], tuple["StoredSignature", ...]]


class AdapterLoader:
    """Loads what a registry holds, and what a Hub holds through it; see ``AdapterSource``.

    Every byte of an artifact is compared with its digest when it is first fetched in this
    process, and again when one of its files has another inode, size or time of change than then.
    The rule on signatures is applied at every fetch. An error is told to those who wait for that
    adapter, and the next one who asks tries again.

    Safe for use from several threads.

    Args:
        registry: of this machine.
        api: the Hub's client; of ``HF_ENDPOINT`` where not given.
    """

    def __init__(self, registry: Registry, *, api: HfApi | None = None) -> None:
        self._registry = registry
        self._api = api
        self._disk = background_pool("adapterhub-disk", DISK_THREADS)
        # waits for a network would hold up those for the disk
        self._hub = background_pool("adapterhub-hub", HUB_THREADS)
        self._lock = Lock()
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._checked: dict[str, _Checked] = {}
        self._fetching: dict[str, Future[Artifact]] = {}
        self._pulling: dict[str, Future[str]] = {}

    def resolve(self, ref: str) -> str | Future[str]:
        """Return the digest of what a reference means now; what it means later changes nothing.

        Args:
            ref: Reference of the registry, ``hf://owner/repository@revision``, which is pulled, or
                the digest of a version that was resolved before.

        Returns:
            The digest, or its future where it takes a pull.

        Raises:
            RefError: when it is no reference.
            NotFoundError: when the registry has no such version.
            RegistryError: when the registry can't be read.
        """
        if ref.startswith(DIGEST_PREFIX):
            return ref
        if ref.startswith(SCHEME):
            address = parse_address(ref)

            def pulled() -> str:
                return self._remember(pull(self._registry, address, api=self._api).version)

            return self._once(self._pulling, ref, self._hub, pulled)
        return self._remember(self._registry.resolve(ref))

    def register(self, version: Version) -> str:
        """Take a version that the registry resolved elsewhere; return its digest to fetch it by."""
        return self._remember(version)

    def fetch(self, digest: str) -> Future[Artifact]:
        """Return the future of an artifact that was resolved here.

        Its tensors lie in the mapped file. The future raises:

            NotFoundError: when the version was removed and its files collected meanwhile.
            IntegrityError: naming the file whose bytes are not those that were stored.
            SignatureError: when a signature is asked for and none by a trusted key holds.
            ArtifactError: when it is not what its manifest says.
        """
        return self._once(self._fetching, digest, self._disk, lambda: self._read(digest))

    def close(self) -> None:
        """Drop what is not begun, and wait for the rest."""
        for pool in (self._hub, self._disk):
            pool.shutdown(cancel_futures=True)

    def _once(
        self, running: dict[str, Future[_T]], key: str, pool: Executor, do: Callable[[], _T]
    ) -> Future[_T]:
        """Run something on a pool, once for all who ask while it runs."""
        with self._lock:
            future = running.get(key)
            if future is not None:
                return future
            future = running[key] = pool.submit(do)
        # outside of the lock, since it is called here where the work is done by now
        future.add_done_callback(lambda _: self._done(running, key))
        return future

    def _done(self, running: dict[str, Future[_T]], key: str) -> None:
        with self._lock:
            running.pop(key, None)

    def _remember(self, version: Version) -> str:
        with self._lock:
            self._versions[version.digest] = version
            self._versions.move_to_end(version.digest)
            if len(self._versions) > MAX_RESOLVED:
                oldest, _ = self._versions.popitem(last=False)
                self._checked.pop(oldest, None)
        return version.digest

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
        # a file that changed since the check began may have been read before or after it did
        if all(changed < began - CLOCK_NS for *_, changed in stamps.values()):
            with self._lock:
                self._checked[digest] = _Checked(folder, stamps, proof)
        return artifact

    def _proof(self, version: Version) -> _Proof | None:
        """Return what the rule on signatures looks at, so that a change of it is seen."""
        if not self._registry.requires_signed():
            return None
        return self._registry.trusted_keys(), self._registry.stored_signatures(version.digest)


def _stamps(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what changes when a file does; nothing where the folder is gone.

    The time of change of a Linux inode can't be set, so bytes that were changed in place show
    even where the time of modification was put back.
    """
    try:
        stats = {path.name: path.stat() for path in folder.iterdir()}
    except FileNotFoundError:
        return {}
    return {
        name: (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns)
        for name, each in stats.items()
    }
