"""Push of a version to a repository on a Hub: one commit and a tag."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from adapterhub.adapters.local_paths import require_portable
from adapterhub.adapters.manifest import MANIFEST_NAME, MAX_MANIFEST, Manifest
from adapterhub.errors import AdapterHubError, RefError, TransferError
from adapterhub.hub.client.failures import translate_hub_errors
from adapterhub.hub.client.remote import Remote, hub_api, read_remote
from adapterhub.registry.sigstore import is_signature_name, signature_name

if TYPE_CHECKING:
    from huggingface_hub import HfApi

    from adapterhub.hub.client.address import HubAddress
    from adapterhub.refs import AdapterRef
    from adapterhub.registry.registry import Registry
    from adapterhub.registry.version import Version

#: Hubs that receive files by hf_xet; others receive them by Git-LFS, which all support.
_XET_HOSTS = ("huggingface.co", "hf.co")


@dataclass(frozen=True, slots=True)
class PushPlan:
    """The changes that a push would make.

    Args:
        version: Version to push.
        address: Address of the repository.
        tag: Tag of the commit.
        create: Whether the repository has to be created.
        private: Whether it is, or would be, private.
        send: Names and sizes in bytes of the files to send.
        keep: Names of the files that the repository has already.
        delete: Names of the files of an earlier version that this one does not have.
        tagged: Commit with this artifact that has the tag already; ``None`` if there is none.
        head: Commit of the main branch when the plan was made.
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
        """Whether nothing has to be changed."""
        return not self.send and not self.delete and self.tagged is not None

    @property
    def bytes(self) -> int:
        """Number of bytes to send."""
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
    """Plan a push without changing anything.

    Args:
        registry: Registry with the version.
        ref: Reference of the version.
        address: Address of the repository, without a revision.
        private: Whether a new repository becomes private; public by default. ``True`` rejects an
            existing public repository.
        tag: Tag of the commit; ``v3`` for version 3 by default.
        api: Client of the Hub; that of ``HF_ENDPOINT`` by default.

    Raises:
        NotFoundError: When there is no such version.
        IntegrityError: When a stored file is damaged.
        ArtifactError: When a file of the version names a local path.
        RefError: When the address has a revision.
        TransferError: When the Hub cannot be reached or rejects the request, or another artifact
            has the tag.
    """
    return _Push(registry, registry.resolve(ref), address, private, tag, api or hub_api()).plan()


def push(registry: Registry, plan: PushPlan, *, message: str = "", api: HfApi | None = None) -> str:
    """Execute a plan and return the commit with the version.

    Files on the main branch that do not belong to an artifact stay. The version becomes the head of
    the main branch by one commit and gets its tag. An interrupted push continues by planning and
    pushing again; received files are not sent twice.

    Args:
        registry: Registry with the version.
        plan: Result of ``plan_push``.
        message: Commit message; the reference of the version by default.
        api: Client of the Hub; that of ``HF_ENDPOINT`` by default.

    Raises:
        TransferError: When the Hub cannot be reached, rejects the request, or changed since.
    """
    api = api or hub_api()
    work = _Push(registry, plan.version, plan.address, plan.private, plan.tag, api)
    return work.run(plan, message)


class _Push:
    """One push of a version to a repository."""

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
                hint="Omit '@' and the revision; --tag names the version",
            )
        self.version = version
        self.address = address
        self.private = private
        self.tag = tag or f"v{version.version}"
        self.api = api
        folder = registry.materialize(version)
        require_portable(folder, str(version.ref))
        self.manifest = Manifest.from_json((folder / MANIFEST_NAME).read_bytes())
        #: Path and sha256 of each file of the artifact, by name.
        self.files: dict[str, tuple[Path, str]] = {
            name: (folder / name, entry.sha256) for name, entry in self.manifest.files.items()
        }
        manifest_digest = version.digest.removeprefix("sha256:")
        self.files[MANIFEST_NAME] = (folder / MANIFEST_NAME, manifest_digest)
        self.signatures = {
            signature_name(each.key): each.content for each in registry.signatures(version)
        }

    def plan(self) -> PushPlan:
        """Compare the version with the content of the repository."""
        remote = self._remote()
        tagged = self._tagged(remote)
        if remote is None:
            send = {**self._sizes(self.files), **self._signature_sizes()}
            return self._planned(None, send, (), ())
        # a published version stays at its tag
        at_head = self._has(remote, MANIFEST_NAME)
        there = tagged if tagged is not None and not at_head else remote
        files = [name for name in self.files if not self._has(there, name)]
        # signatures of an earlier version have the same names, but are not valid for this one
        signed = there.files if self._has(there, MANIFEST_NAME) else {}
        late = {name: size for name, size in self._signature_sizes().items() if name not in signed}
        if late and there is tagged:
            raise TransferError(
                "it was signed after a newer version replaced it on the main branch",
                place=f"{self.address}@{self.tag}",
                hint="Sign before pushing; this version can be pushed again with another --tag",
            )
        send = {**self._sizes(files), **late}
        kept = sorted((self.files.keys() | self.signatures.keys()) - send.keys())
        stale = () if tagged else self._stale(remote)
        return self._planned(remote, send, tuple(kept), stale, tagged)

    def run(self, plan: PushPlan, message: str) -> str:
        """Create the repository, the commit and the tag as far as they are missing."""
        if plan.done and plan.tagged is not None:
            return plan.tagged
        repo_id = self.address.repo_id
        with translate_hub_errors(str(self.address)):
            if plan.create:
                self.api.create_repo(repo_id, private=plan.private, exist_ok=True)
            changes = bool(plan.send or plan.delete)
            commit = self._commit(plan, message) if changes else str(plan.head)
            if plan.tagged is not None and plan.tagged != commit:
                # the same artifact, now with a later signature
                self.api.delete_tag(repo_id, tag=self.tag)
        self._set_tag(commit)
        return commit

    def _remote(self) -> Remote | None:
        try:
            remote = read_remote(self.api, self.address, None)
        except TransferError as error:
            if error.status not in (401, 404):
                raise
            # a missing login is reported when the repository is created
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
        if not self._has(tagged, MANIFEST_NAME):
            raise TransferError(
                f"its tag {self.tag!r} belongs to another artifact",
                place=str(self.address),
                hint="A published version is not changed; choose another tag with --tag",
            )
        return tagged

    def _tags(self) -> dict[str, str]:
        with translate_hub_errors(str(self.address)):
            refs = self.api.list_repo_refs(self.address.repo_id)
        return {tag.name: tag.target_commit for tag in refs.tags}

    def _has(self, remote: Remote, name: str) -> bool:
        found = remote.files.get(name)
        return found is not None and found.equals(*self.files[name])

    def _stale(self, remote: Remote) -> tuple[str, ...]:
        """Return the files of the artifact on main that the new one does not have."""
        if MANIFEST_NAME not in remote.files or self._has(remote, MANIFEST_NAME):
            return ()
        before = {name for name in remote.files if is_signature_name(name)}
        before |= self._listed_before(remote)
        kept = self.files.keys() | self.signatures.keys()
        return tuple(sorted((before & remote.files.keys()) - kept))

    def _listed_before(self, remote: Remote) -> set[str]:
        with TemporaryDirectory() as folder:
            path = remote.fetch(MANIFEST_NAME, Path(folder), limit=MAX_MANIFEST)
            content = path.read_bytes()
        try:
            return set(Manifest.from_json(content).files)
        except AdapterHubError:
            # a manifest of another tool, whose files are not deleted
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
        # the library sends an open file without hf_xet
        return opened.enter_context(path.open("rb"))

    def _set_tag(self, commit: str) -> None:
        with translate_hub_errors(str(self.address)):
            self.api.create_tag(self.address.repo_id, tag=self.tag, revision=commit, exist_ok=True)
        # an existing tag, or one that was created concurrently, is not moved
        if self._tags().get(self.tag) != commit:
            raise TransferError(
                f"its tag {self.tag!r} belongs to another commit",
                place=str(self.address),
                hint=f"The commit {commit} has the version; choose another tag with --tag",
            )
