"""The one tree of exceptions.

Every exception carries its facts as fields, so that a caller can act on them
without reading text. ``str(error)`` gives one line: the place, the problem and,
where it is known, what to do.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class AdapterHubError(Exception):
    """Base of all errors that adapterhub raises on purpose.

    Args:
        problem: what is wrong, without a full stop.
        place: where it is wrong (a recipe key, a file and row, a tensor name).
        hint: what the user can do about it.
    """

    def __init__(self, problem: str, *, place: str = "", hint: str = "") -> None:
        self.problem = problem
        self.place = place
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        text = f"{self.place}: {self.problem}" if self.place else self.problem
        return f"{text}. {self.hint}" if self.hint else text


class RecipeError(AdapterHubError):
    """A recipe that cannot be used; ``place`` is the dotted path of the key."""


class DataError(AdapterHubError):
    """Data that cannot be used; ``place`` names the file and, if known, the row."""


class BackboneError(AdapterHubError):
    """A backbone that cannot be found, fetched, checked or loaded."""


class ArtifactError(AdapterHubError):
    """An artifact that is not whole, not safe or not of the known format."""


class StrictLoadError(ArtifactError):
    """Tensors of an artifact and of the model do not match one to one."""

    def __init__(self, place: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
        self.missing = tuple(sorted(missing))
        self.unexpected = tuple(sorted(unexpected))
        super().__init__(
            f"{len(self.missing)} tensors missing {_first(self.missing)} and "
            f"{len(self.unexpected)} unexpected {_first(self.unexpected)}",
            place=place,
            hint="Nothing was applied; it was made for another architecture or is damaged",
        )


class NoEffectError(ArtifactError):
    """An adapter whose presence changes nothing in the output of the backbone."""


class FingerprintMismatch(AdapterHubError):
    """An adapter trained on one backbone was asked to run on another."""

    def __init__(self, adapter: str, expected: str, found: str) -> None:
        self.adapter = adapter
        self.expected = expected
        self.found = found
        super().__init__(
            f"was trained on the backbone with fingerprint {expected}, "
            f"the loaded backbone has {found}",
            place=adapter,
            hint="Load the backbone and quantization named in its manifest, "
            "or force it if you accept wrong answers",
        )


class RegistryError(AdapterHubError):
    """The registry cannot do what was asked."""


class RefError(RegistryError):
    """A reference such as ``name@3`` that cannot be read."""


class NotFoundError(RegistryError):
    """A name, version or digest that the registry does not hold."""


class IntegrityError(RegistryError):
    """Stored bytes do not have the digest that they are stored under."""


class SignatureError(RegistryError):
    """A signature that is missing, malformed, or not by the key over these files."""


class TransferError(AdapterHubError):
    """A Hub can't be reached, or refuses.

    Args:
        problem: what is wrong, without a full stop.
        place: the address.
        hint: what the user can do about it.
        status: of HTTP, where the Hub answered.
    """

    def __init__(
        self, problem: str, *, place: str = "", hint: str = "", status: int | None = None
    ) -> None:
        self.status = status
        super().__init__(problem, place=place, hint=hint)


class EngineError(AdapterHubError):
    """The engine cannot do what was asked, or was built for something else."""


class ComputeError(EngineError):
    """A step failed on the device; the request is not to blame."""


class EngineClosedError(EngineError):
    """The engine takes no requests any more."""


class RequestError(AdapterHubError):
    """A request that cannot be served as asked; ``place`` is the name of its field."""


class SettingsError(AdapterHubError):
    """A setting of the server that cannot be used; ``place`` says which, and from where."""


class Unauthorized(AdapterHubError):
    """Who asks did not show a key that is known."""


class Forbidden(AdapterHubError):
    """Who asks may not do that."""


class QueueFull(AdapterHubError):
    """A request that cannot wait for its turn now.

    Args:
        problem: as in ``AdapterHubError``.
        retry_after: seconds after which it is worth another try.
        place: as in ``AdapterHubError``.
        hint: as in ``AdapterHubError``.
    """

    def __init__(
        self, problem: str, *, retry_after: float, place: str = "", hint: str = ""
    ) -> None:
        self.retry_after = retry_after
        super().__init__(problem, place=place, hint=hint)


class TrainingError(AdapterHubError):
    """Training cannot start or go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite.

    Args:
        step: optimizer step, counted from 1.
        rows: row numbers, counted from 1, of the training file in the batch at fault.
    """

    def __init__(self, step: int, rows: Iterable[int]) -> None:
        self.step = step
        self.rows = tuple(rows)
        listed = ", ".join(map(str, self.rows))
        super().__init__(
            f"the loss is not finite at step {step}",
            place=f"training rows {listed}",
            hint="Look at these rows, lower optimizer.learning_rate or set optimizer.clip_norm",
        )


class TrainingInterrupted(TrainingError):
    """A run was asked to stop and left a checkpoint.

    Args:
        step: optimizer steps done.
        folder: of the run, which holds the checkpoint.
    """

    def __init__(self, step: int, folder: object) -> None:
        self.step = step
        self.folder = folder
        super().__init__(
            f"interrupted after step {step}",
            place=str(folder),
            hint="Run the same command with --resume to go on",
        )


class MissingExtraError(AdapterHubError):
    """An optional dependency is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"the package {package!r} is not installed",
            hint=f"Install it with: pip install 'adapterhub[{extra}]'",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known name, or the list of them.

    Used for the hint of an error; an empty string where nothing is known.
    """
    names = sorted(set(known))
    if not names:
        return ""
    matches = get_close_matches(name, names, n=1, cutoff=0.6)
    if matches:
        return f"Did you mean {matches[0]!r}?"
    shown = ", ".join(names[:12])
    return f"Known: {shown}{', …' if len(names) > 12 else ''}"


def _first(names: tuple[str, ...]) -> str:
    if not names:
        return "(none)"
    return f"({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
