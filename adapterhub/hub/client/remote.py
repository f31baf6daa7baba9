"""The client of a Hub, and the revisions of repositories that it reads."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import default_client_factory
from huggingface_hub.utils.sha import git_hash

from adapterhub.errors import ArtifactError, TransferError
from adapterhub.hub.client.failures import translate_hub_errors
from adapterhub.registry.blobs import file_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from adapterhub.hub.client.address import HubAddress

#: Timeouts in seconds for a connection, and for the next bytes of a response.
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 60.0


def hub_api() -> HfApi:
    """Return a client of the Hub in ``HF_ENDPOINT``, with the token of the usual places.

    These are ``HF_TOKEN`` and the login of ``hf auth login``. Sets the timeouts of the process, see
    ``set_timeouts``.
    """
    set_timeouts()
    return HfApi(library_name="adapterhub", library_version=version("adapterhub"))


def set_timeouts() -> None:
    """Set timeouts for all requests of huggingface_hub, most of which have none.

    They apply to the whole process, as does its ``set_client_factory``.
    """
    set_client_factory(_client_with_timeouts)


def _client_with_timeouts() -> httpx2.Client:
    client = default_client_factory()
    client.event_hooks["request"].append(_add_timeouts)
    return client


def _add_timeouts(request: httpx2.Request) -> None:
    # the library disables timeouts per request, so a default of the client has no effect
    timeouts = request.extensions.get("timeout", {})
    default = httpx2.Timeout(READ_TIMEOUT, connect=CONNECT_TIMEOUT).as_dict()
    given = {kind: value for kind, value in timeouts.items() if value is not None}
    request.extensions = {**request.extensions, "timeout": default | given}


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
    """

    api: HfApi
    address: HubAddress
    sha: str
    private: bool
    files: Mapping[str, RemoteFile]

    def fetch(self, name: str, folder: Path, *, limit: int, sha256: str | None = None) -> Path:
        """Download a file into ``folder``.

        A broken download is continued. A file with another digest than ``sha256`` is deleted, also
        from the cache of the client, and downloaded once more.

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
            with translate_hub_errors(place):
                cached = Path(
                    self.api.hf_hub_download(
                        self.address.repo_id, name, revision=self.sha, force_download=again
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
    with translate_hub_errors(str(address)):
        info = api.model_info(address.repo_id, revision=revision)
        tree = api.list_repo_tree(address.repo_id, revision=info.sha)
        files = {
            each.path: RemoteFile(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None)
            for each in tree
            if isinstance(each, RepoFile)
        }
    return Remote(api, address, str(info.sha), bool(info.private), files)
