"""From a version of the registry to a repository on a Hub: one commit, and a tag."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from adapterhub.adapters.manifest import MANIFEST_NAME, Manifest
from adapterhub.errors import AdapterHubError, RefError, TransferError
from adapterhub.hub.client.faults import hub_faults
from adapterhub.hub.client.remote import Remote, read_remote
from adapterhub.hub.client.session import hub_api
from adapterhub.registry.intake import MAX_MANIFEST
from adapterhub.registry.sigstore import is_signature_name, signature_name

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import HfApi

    from adapterhub.hub.client.address import HubAddress
    from adapterhub.refs import AdapterRef
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: Hubs that take files by hf_xet; any other is sent them by Git-LFS, which all understand.
_XET_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push would do.

    Args:
        version: to be pushed.
        address: of the repository.
        tag: that the commit gets.
        create: whether the repository is not there yet.
        private: whether it is, or would be, private.
        send: names and sizes in bytes of the files that are sent.
        keep: names of the files that are there already.
        delete: names of the files of an earlier version that this one does not have.
        tagged: commit that has the tag already, if there is one; it holds this artifact.
        head: commit of the main branch that this was found at.
    """

    version: Version
    address: HubAddress
    tag: str
    create: bool
    private: bool
    send: tuple[tuple[str, int], ...]
    keep: tuple[str, ...]
    delete: tuple[str, ...]
    tagged: str | None
    head: str | None

    @property
    def done(self) -> bool:
        """Whether all of it is there already."""
        return not self.send and not self.delete and self.tagged is not None

    @property
    def bytes(self) -> int:
        """Bytes that are sent."""
        return sum(size for _, size in self.send)


def plan_push(
    registry: Registry,
    ref: str | AdapterRef,
    address: HubAddress,
    *,
    private: bool | None = None,
    tag: str | None = None,
    api: HfApi | None = None,
) -> PushPlan:
    """Find out what a push would send; nothing is changed anywhere.

    Args:
        registry: that holds the version.
        ref: of the version.
        address: of the repository, without a revision.
        private: whether a new repository is to be private; public where not given. ``True``
            refuses a repository that is public.
        tag: ``v3`` for version 3 where not given.
        api: the Hub's client; of ``HF_ENDPOINT`` where not given.

    Raises:
        NotFoundError: when there is no such version.
        IntegrityError: when a byte of it is not as stored.
        RefError: when the address names a revision.
        TransferError: when the Hub can't be reached or refuses, or has the tag for another
            artifact.
    """
    return _Push(registry, registry.resolve(ref), address, private, tag, api or hub_api()).plan()


def push(registry: Registry, plan: PushPlan, *, message: str = "", api: HfApi | None = None) -> str:
    """Do what was planned and return the commit that holds the version.

    What is on the main branch and no part of an artifact stays. The version becomes the head
    of the main branch by one commit, and gets its tag. A push that broke off is taken up by
    planning and pushing again; files that arrived are not sent twice.

    Args:
        registry: that holds the version.
        plan: as ``plan_push`` returned it.
        message: title of the commit; the reference where not given.
        api: as for ``plan_push``.

    Raises:
        IntegrityError: when a byte of the version is not as stored.
        TransferError: when the Hub can't be reached or refuses, or changed since.
    """
    api = api or hub_api()
    work = _Push(registry, plan.version, plan.address, plan.private, plan.tag, api)
    return work.run(plan, message)


class _Push:
    """One version on its way to one repository."""

    def __init__(
        self,
        registry: Registry,
        version: Version,
        address: HubAddress,
        private: bool | None,
        tag: str | None,
        api: HfApi,
    ) -> None:
        if address.revision is not None:
            raise RefError(
                "a push goes to the main branch",
                place=str(address),
                hint="Leave '@' and what follows away; --tag names the version",
            )
        self.version = version
        self.address = address
        self.private = private
        self.tag = tag or f"v{version.version}"
        self.api = api
        folder = registry.materialize(version)
        self.manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
        #: name of each file of the artifact to where it lies, and the digest of its bytes
        self.files: dict[str, tuple[Path, str]] = {
            name: (folder / name, entry.sha256) for name, entry in self.manifest.files.items()
        }
        manifest_digest = version.digest.removeprefix("sha256:")
        self.files[MANIFEST_NAME] = (folder / MANIFEST_NAME, manifest_digest)
        self.signatures = {
            signature_name(each.key): each.content for each in registry.signatures(version)
        }

    def plan(self) -> PushPlan:
        """Compare the version with what the repository holds."""
        remote = self._remote()
        tagged = self._tagged(remote)
        if remote is None:
            send = {**self._sizes(self.files), **self._signature_sizes()}
            return self._planned(None, send, (), ())
        # a version that was published once stays where its tag is
        at_head = self._holds(remote, MANIFEST_NAME)
        there = tagged if tagged is not None and not at_head else remote
        files = [name for name in self.files if not self._holds(there, name)]
        # those of an earlier version have the same names, and are of no worth for this one
        signed = there.files if self._holds(there, MANIFEST_NAME) else {}
        late = {name: size for name, size in self._signature_sizes().items() if name not in signed}
        if late and there is tagged:
            raise TransferError(
                "its signature came after a newer version took its place on the main branch",
                place=f"{self.address}@{self.tag}",
                hint="Sign before pushing; this version can be pushed again with another --tag",
            )
        send = {**self._sizes(files), **late}
        kept = sorted((self.files.keys() | self.signatures.keys()) - send.keys())
        stale = () if tagged else self._stale(remote)
        return self._planned(remote, send, tuple(kept), stale, tagged)

    def run(self, plan: PushPlan, message: str) -> str:
        """Make the repository, the commit and the tag that are missing."""
        if plan.done and plan.tagged is not None:
            return plan.tagged
        repo_id = self.address.repo_id
        with hub_faults(str(self.address)):
            if plan.create:
                self.api.create_repo(repo_id, private=plan.private, exist_ok=True)
            changes = bool(plan.send or plan.delete)
            commit = self._commit(plan, message) if changes else str(plan.head)
            if plan.tagged is not None and plan.tagged != commit:
                # the same artifact, now with a signature that came later
                self.api.delete_tag(repo_id, tag=self.tag)
        self._set_tag(commit)
        return commit

    def _remote(self) -> Remote | None:
        try:
            remote = read_remote(self.api, self.address, None)
        except TransferError as error:
            if error.status not in (401, 404):
                raise
            # an owner that is not logged in is told so when the repository is made
            return None
        if self.private and not remote.private:
            raise TransferError(
                "the repository is public",
                place=str(self.address),
                hint="Make it private on its page first, or push without --private",
            )
        return remote

    def _tagged(self, remote: Remote | None) -> Remote | None:
        if remote is None or self.tag not in self._tags():
            return None
        tagged = read_remote(self.api, self.address, self.tag)
        if not self._holds(tagged, MANIFEST_NAME):
            raise TransferError(
                f"its tag {self.tag!r} is of another artifact",
                place=str(self.address),
                hint="A published version does not change; give this one another with --tag",
            )
        return tagged

    def _tags(self) -> dict[str, str]:
        with hub_faults(str(self.address)):
            refs = self.api.list_repo_refs(self.address.repo_id)
        return {tag.name: tag.target_commit for tag in refs.tags}

    def _holds(self, remote: Remote, name: str) -> bool:
        found = remote.files.get(name)
        return found is not None and found.holds(*self.files[name])

    def _stale(self, remote: Remote) -> tuple[str, ...]:
        """Return the files of the artifact that main holds now which are not in the new one."""
        if MANIFEST_NAME not in remote.files or self._holds(remote, MANIFEST_NAME):
            return ()
        before = {name for name in remote.files if is_signature_name(name)}
        before |= self._listed_before(remote)
        kept = self.files.keys() | self.signatures.keys()
        return tuple(sorted((before & remote.files.keys()) - kept))

    def _listed_before(self, remote: Remote) -> set[str]:
        with hub_faults(f"{self.address}: {MANIFEST_NAME}"):
            path = self.api.hf_hub_download(
                self.address.repo_id, MANIFEST_NAME, revision=remote.sha
            )
        with open(path, "rb") as file:
            content = file.read(MAX_MANIFEST)
        try:
            return set(Manifest.from_json(content).files)
        except AdapterHubError:
            # a manifest of another tool; its files are not ours to delete
            return set()

    def _planned(
        self,
        remote: Remote | None,
        send: dict[str, int],
        keep: tuple[str, ...],
        delete: tuple[str, ...],
        tagged: Remote | None = None,
    ) -> PushPlan:
        return PushPlan(
            version=self.version,
            address=self.address,
            tag=self.tag,
            create=remote is None,
            private=bool(self.private) if remote is None else remote.private,
            send=tuple(sorted(send.items())),
            keep=keep,
            delete=delete,
            tagged=tagged.sha if tagged else None,
            head=remote.sha if remote else None,
        )

    def _sizes(self, names: Any) -> dict[str, int]:
        return {name: self.files[name][0].stat().st_size for name in names}

    def _signature_sizes(self) -> dict[str, int]:
        return {name: len(content) for name, content in self.signatures.items()}

    def _commit(self, plan: PushPlan, message: str) -> str:
        with ExitStack() as opened:
            additions: list[Any] = [
                CommitOperationAdd(name, self._content(name, opened)) for name, _ in plan.send
            ]
            deletions = [CommitOperationDelete(name) for name in plan.delete]
            info = self.api.create_commit(
                self.address.repo_id,
                operations=[*additions, *deletions],
                commit_message=message or str(self.version.ref),
                commit_description=self.version.digest,
                parent_commit=plan.head,
            )
        return str(info.oid)

    def _content(self, name: str, opened: ExitStack) -> Any:
        if name in self.signatures:
            return self.signatures[name]
        path = self.files[name][0]
        host = urlsplit(self.api.endpoint).hostname or ""
        if any(host == known or host.endswith(f".{known}") for known in _XET_HOSTS):
            return str(path)
        # of an open file the library knows that hf_xet can't send it
        return opened.enter_context(path.open("rb"))

    def _set_tag(self, commit: str) -> None:
        with hub_faults(str(self.address)):
            self.api.create_tag(self.address.repo_id, tag=self.tag, revision=commit, exist_ok=True)
        # a tag that was there, or that someone made a moment before, is not moved
        if self._tags().get(self.tag) != commit:
            raise TransferError(
                f"its tag {self.tag!r} was given to another commit",
                place=str(self.address),
                hint=f"The commit {commit} holds the version; tag it by another name with --tag",
            )
