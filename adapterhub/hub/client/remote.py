"""The client of a Hub, and the revisions of repositories that it reads."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.sha import git_hash

from adapterhub.errors import ArtifactError, TransferError
from adapterhub.hub.client.failures import translate_hub_errors
from adapterhub.hub.client.limits import (
    MAX_LISTING,
    limit_request,
    limit_response,
    response_limit,
)
from adapterhub.registry.blobs import file_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx2

    from adapterhub.hub.client.address import HubAddress

#: Most entries at the top of a repository.
MAX_ENTRIES = 10_000


def hub_api() -> HfApi:
    """Return a client of the Hub in ``HF_ENDPOINT``, with the token of the usual places.

    These are ``HF_TOKEN`` and the login of ``hf auth login``. Sets the timeouts of the process, see
    ``set_limits``.
    """
    set_limits()
    # its warnings are about transfers that it retries, or does in another way
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    return HfApi(library_name="adapterhub", library_version=version("adapterhub"))


@cache
def set_limits() -> None:
    """Set timeouts for all requests of huggingface_hub, most of which have none.

    They apply to the whole process, as does its ``set_client_factory``. The limits of
    ``response_limit`` apply to a pull only.
    """
    set_client_factory(_client_with_limits)


def _client_with_limits() -> httpx2.Client:
    client = default_client_factory()
    client.event_hooks["request"].append(limit_request)
    client.event_hooks["response"].append(limit_response)
    return client


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a repository lists it.

    Args:
        size: Size in bytes.
        git_id: Git's name of the content, or of the pointer to it.
        sha256: Digest of the content in hex; ``None`` if the repository does not list it.
    """

    size: int
    git_id: str
    sha256: str | None

    def equals(self, path: Path, sha256: str) -> bool:
        """Return whether it equals a local file with this digest."""
        if self.size != path.stat().st_size:
            return False
        if self.sha256 is not None:
            return self.sha256 == sha256
        return self.git_id == git_hash(path.read_bytes())


@dataclass(frozen=True, slots=True)
class Remote:
    """A revision of a repository.

    Args:
        api: Client of the Hub.
        address: Address that the user gave.
        sha: Name of the commit.
        private: Whether the repository is private.
        files: Files at the top of the repository, by name.
        cache: Folder of the client's cache; that of the user by default.
    """

    api: HfApi
    address: HubAddress
    sha: str
    private: bool
    files: Mapping[str, RemoteFile]
    cache: Path | None = None

    def fetch(self, name: str, folder: Path, *, limit: int, sha256: str | None = None) -> Path:
        """Download a file into ``folder``.

        No more than the listed size is received. A broken download is continued. A file with
        another digest than ``sha256`` is deleted, also from the cache of the client, and downloaded
        once more.

        Args:
            name: Name of the file.
            folder: Folder for the file.
            limit: Largest size in bytes.
            sha256: Expected digest in hex.
        """
        place = f"{self.address}: {name}"
        size = self.files[name].size
        if size > limit:
            raise ArtifactError(f"has {size} bytes, the limit is {limit}", place=place)
        target = folder / name
        for again in (False, True):
            with translate_hub_errors(place), response_limit(place, size):
                cached = Path(
                    self.api.hf_hub_download(
                        self.address.repo_id,
                        name,
                        revision=self.sha,
                        cache_dir=self.cache,
                        force_download=again,
                    )
                )
                shutil.copyfile(cached, target)
            fault = file_fault(target, sha256) if sha256 else ""
            if not fault:
                return target
            # a damaged file must not stay in the cache
            cached.resolve().unlink(missing_ok=True)
            cached.unlink(missing_ok=True)
            target.unlink()
        raise TransferError(
            f"{fault}, its manifest says {sha256}",
            place=place,
            hint="It was changed after it was published; ask its owner to publish it again",
        )


def read_remote(api: HfApi, address: HubAddress, revision: str | None) -> Remote:
    """Return a revision of a repository with its list of files."""
    set_limits()
    with translate_hub_errors(str(address)), response_limit(str(address), MAX_LISTING):
        info = api.model_info(address.repo_id, revision=revision)
        tree = list(islice(api.list_repo_tree(address.repo_id, revision=info.sha), MAX_ENTRIES + 1))
    if len(tree) > MAX_ENTRIES:
        raise ArtifactError(f"lists more than {MAX_ENTRIES} files", place=str(address))
    files = {
        each.path: RemoteFile(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None)
        for each in tree
        if isinstance(each, RepoFile)
    }
    return Remote(api, address, str(info.sha), bool(info.private), files)


def without_password(url: str) -> str:
    """Return a URL without the name and the password in it."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
