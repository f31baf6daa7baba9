"""One revision of a repository: what files it has, and fetching them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from adapterhub.errors import ArtifactError, TransferError
from adapterhub.hub.client.faults import hub_faults
from adapterhub.registry.blobs import file_fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from huggingface_hub import HfApi

    from adapterhub.hub.client.address import HubAddress


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a repository lists it.

    Args:
        size: in bytes.
        git_id: git's name of its bytes, or of the pointer to them.
        sha256: of its bytes in hex, where the repository tells.
    """

    size: int
    git_id: str
    sha256: str | None

    def holds(self, path: Path, sha256: str) -> bool:
        """Return whether it has the bytes of a local file with this digest."""
        if self.size != path.stat().st_size:
            return False
        if self.sha256 is not None:
            return self.sha256 == sha256
        return self.git_id == git_hash(path.read_bytes())


@dataclass(frozen=True, slots=True)
class Remote:
    """A revision of a repository.

    Args:
        api: to reach it by.
        address: as the user gave it.
        sha: of the commit.
        private: whether the repository is.
        files: at the top of the repository, by name.
    """

    api: HfApi
    address: HubAddress
    sha: str
    private: bool
    files: Mapping[str, RemoteFile]

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self.files[name].size

    def fetch(self, name: str, folder: Path, *, limit: int, sha256: str | None = None) -> Path:
        """Bring a file into ``folder`` under its own name.

        A connection that breaks is taken up again where it broke. Bytes that are not those of
        ``sha256`` are thrown away, also from the client's cache, and fetched once more.

        Args:
            name: of the file.
            folder: to put it in.
            limit: largest size that is taken, in bytes.
            sha256: that its bytes must have, in hex.

        Raises:
            ArtifactError: when it is larger than ``limit``.
            TransferError: when it can't be had, or its bytes are wrong twice.
        """
        place = f"{self.address}: {name}"
        if self.size(name) > limit:
            raise ArtifactError(f"has {self.size(name)} bytes, the limit is {limit}", place=place)
        target = folder / name
        for again in (False, True):
            with hub_faults(place):
                cached = Path(
                    self.api.hf_hub_download(
                        self.address.repo_id, name, revision=self.sha, force_download=again
                    )
                )
                shutil.copyfile(cached, target)
            fault = file_fault(target, sha256) if sha256 else ""
            if not fault:
                return target
            # what is damaged must not be found in the cache by anyone
            cached.resolve().unlink(missing_ok=True)
            cached.unlink(missing_ok=True)
            target.unlink()
        raise TransferError(
            f"{fault}, its manifest says {sha256}",
            place=place,
            hint="It was changed after it was published; ask its owner to publish it again",
        )


def read_remote(api: HfApi, address: HubAddress, revision: str | None) -> Remote:
    """Return what a repository holds at a revision, by its commit.

    Raises:
        TransferError: when it can't be had.
    """
    with hub_faults(str(address)):
        info = api.model_info(address.repo_id, revision=revision)
        tree = api.list_repo_tree(address.repo_id, revision=info.sha)
        files = {
            each.path: RemoteFile(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None)
            for each in tree
            if isinstance(each, RepoFile)
        }
    return Remote(api, address, str(info.sha), bool(info.private), files)
