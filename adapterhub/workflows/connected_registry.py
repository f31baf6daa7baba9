"""Registry of the public API: the local registry with promotion and the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterhub.hub.client import pulling, pushing
from adapterhub.hub.client.address import parse_repo_id
from adapterhub.registry.registry import Registry
from adapterhub.workflows.promote import promote

if TYPE_CHECKING:
    from adapterhub.hub.import_peft import ImportOptions
    from adapterhub.registry.aliases import AliasMove
    from adapterhub.registry.version import Version
    from adapterhub.workflows.promote import PromotionResult


class ConnectedRegistry(Registry):
    """A local registry of adapters that can also promote, push and pull them.

    Any number of processes and threads may use one registry at once.

    Args:
        root: Home folder; ``$ADAPTERHUB_HOME`` or the user's data folder by default.

    Raises:
        RegistryError: When the folder cannot be made, read or written.
    """

    def get(self, ref: str) -> Version:
        """Return the version that a reference names.

        Args:
            ref: ``desk`` for the latest version, ``desk@3``, ``desk@prod`` or a digest.

        Raises:
            RefError: When the text is not a reference.
            NotFoundError: When there is no such version.
        """
        return self.resolve(ref)

    def alias(self, ref: str, alias: str, *, why: str = "") -> AliasMove | None:
        """Point an alias to a version without checking the alias's rule.

        Args:
            ref: Reference of the version.
            alias: Alias to move, such as ``prod``.
            why: Reason, kept in the history.

        Returns:
            The move, or ``None`` if the alias already pointed to the version.

        Raises:
            RefError: When ``alias`` is malformed.
            NotFoundError: When there is no such version.
        """
        return self.set_alias(ref, alias, why=why)

    def promote(
        self, ref: str, alias: str, *, why: str = "", force: bool = False, device: str | None = None
    ) -> PromotionResult:
        """Point an alias to a version if it passes the alias's rule.

        Args:
            ref: Reference of the version.
            alias: Alias to move, such as ``prod``.
            why: Reason, kept in the history; required with ``force``.
            force: Move the alias despite failed checks.
            device: Torch device for the evaluation; the first GPU or else the CPU by default.

        Raises:
            NotFoundError: When there is no such version.
            RegistryError: When ``force`` is used without a reason.
        """
        return promote(self, ref, alias, why=why, force=force, device=device)

    def push(
        self,
        ref: str,
        repo_id: str,
        *,
        private: bool | None = None,
        tag: str | None = None,
        commit_message: str = "",
    ) -> str:
        """Publish a version to the Hugging Face Hub, or to the Hub that ``HF_ENDPOINT`` names.

        Args:
            ref: Reference of the version.
            repo_id: ``owner/name``.
            private: Visibility of a new repository; the owner's default if not given.
            tag: Tag of the commit; ``v3`` for version 3 by default.
            commit_message: Title of the commit.

        Returns:
            Hash of the commit that has the version.

        Raises:
            NotFoundError: When there is no such version.
            TransferError: When the Hub cannot be reached or refuses.
        """
        plan = pushing.plan_push(self, ref, parse_repo_id(repo_id), private=private, tag=tag)
        return pushing.push(self, plan, message=commit_message)

    def pull(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        name: str | None = None,
        options: ImportOptions | None = None,
        force: bool = False,
    ) -> Version:
        """Download an adapter from the Hub; adapters of plain peft are imported.

        Args:
            repo_id: ``owner/name``.
            revision: Branch, tag or commit; the main branch by default.
            name: Name in the registry; the repository's by default.
            options: What the files of a plain peft adapter leave open.
            force: Accept a backbone with another fingerprint.

        Raises:
            TransferError: When the Hub cannot be reached or refuses.
            ArtifactError: When the repository has no adapter, or one that is not supported.
            FingerprintMismatch: When the local backbone differs from the adapter's.
        """
        address = parse_repo_id(repo_id if revision is None else f"{repo_id}@{revision}")
        return pulling.pull(self, address, name=name, options=options, force=force).version


def push(
    ref: str,
    repo_id: str,
    *,
    private: bool | None = None,
    tag: str | None = None,
    commit_message: str = "",
) -> str:
    """Publish a version of the local registry; see `Registry.push`."""
    return ConnectedRegistry().push(
        ref, repo_id, private=private, tag=tag, commit_message=commit_message
    )


def pull(
    repo_id: str, *, revision: str | None = None, name: str | None = None, force: bool = False
) -> Version:
    """Download an adapter into the local registry; see `Registry.pull`."""
    return ConnectedRegistry().pull(repo_id, revision=revision, name=name, force=force)
