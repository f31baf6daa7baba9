"""Exception hierarchy of the package.

Every exception carries its data as fields, so that callers need not parse text. ``str(error)``
is one line: the place, the problem and, where known, how to fix it.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class AdapterHubError(Exception):
    """Base class of all errors raised by adapterhub.

    Args:
        problem: What is wrong, without a full stop.
        place: Where it is wrong: a recipe key, a file and line, a tensor name.
        hint: How to fix it.
    """

    def __init__(self, problem: str, *, place: str = "", hint: str = "") -> None:
        self.problem = problem
        self.place = place
        self.hint = hint
        super().__init__(problem)

    def __str__(self) -> str:
        text = f"{self.place}: {self.problem}" if self.place else self.problem
        return f"{text}. {self.hint}" if self.hint else text


def first_sentence(error: BaseException) -> str:
    """Return the first sentence of an error of another library, without its advice."""
    text = " ".join(str(error).split())
    return (
        re.split(r"(?<=[a-z0-9'\"`)])[.!?] (?=[A-Z])", text)[0].rstrip(".") or type(error).__name__
    )


class RecipeError(AdapterHubError):
    """A recipe is invalid; ``place`` is the dotted path of the key."""


class DataError(AdapterHubError):
    """Data is invalid; ``place`` names the file and, if known, the example."""


class BackboneError(AdapterHubError):
    """A backbone cannot be found, downloaded, verified or loaded."""


class ArtifactError(AdapterHubError):
    """An artifact is incomplete, unsafe or of an unknown format."""


class StrictLoadError(ArtifactError):
    """Tensors of an artifact and of the model do not match one to one.

    Args:
        place: The adapter.
        missing: Tensors that only the model has.
        unexpected: Tensors that only the artifact has.
    """

    def __init__(self, place: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
        self.missing = tuple(sorted(missing))
        self.unexpected = tuple(sorted(unexpected))
        super().__init__(
            f"{len(self.missing)} tensors missing {_first(self.missing)} and "
            f"{len(self.unexpected)} unexpected {_first(self.unexpected)}",
            place=place,
            hint="Nothing was loaded; it was made for another architecture or is damaged",
        )


class NoEffectError(ArtifactError):
    """An adapter does not change the output of the backbone."""


class FingerprintMismatch(AdapterHubError):
    """An adapter was trained on another backbone than the loaded one.

    Args:
        adapter: Name or path of the adapter.
        expected: Fingerprint of the backbone that it was trained on.
        found: Fingerprint of the loaded backbone; of several, by their names.
    """

    def __init__(self, adapter: str, expected: str, found: str | Mapping[str, str]) -> None:
        self.adapter = adapter
        self.expected = expected
        self.found = found
        has = f"the loaded backbone has {found}"
        if not isinstance(found, str):
            has = f"the loaded backbones are {', '.join(found)}"
        super().__init__(
            f"was trained on the backbone with fingerprint {expected}, {has}",
            place=adapter,
            hint="Load the backbone and quantization named in its manifest, "
            "or force it if you accept wrong answers",
        )


class RegistryError(AdapterHubError):
    """A registry operation failed."""


class RefError(RegistryError):
    """A reference such as ``name@3`` is malformed."""


class NotFoundError(RegistryError):
    """A name, version or digest does not exist."""


class IntegrityError(RegistryError):
    """Stored bytes do not match their digest."""


class SignatureError(RegistryError):
    """A signature is missing, malformed or does not verify."""


class TransferError(AdapterHubError):
    """A Hub is unreachable or rejects a request.

    Args:
        problem: What is wrong, without a full stop.
        place: URL of the request.
        hint: How to fix it.
        status: HTTP status, where the Hub answered.
    """

    def __init__(
        self, problem: str, *, place: str = "", hint: str = "", status: int | None = None
    ) -> None:
        self.status = status
        super().__init__(problem, place=place, hint=hint)


class EngineError(AdapterHubError):
    """A request or setting is invalid for this engine."""


class ComputeError(EngineError):
    """A step failed on the device, independently of the request."""


class UntraceableInputError(EngineError):
    """A layer's input can't be traced to the sequences of a batch with different adapters."""


class EngineClosedError(EngineError):
    """The engine is closed and accepts no requests."""


class RequestError(AdapterHubError):
    """A request is invalid; ``place`` is the name of its field."""


class SettingsError(AdapterHubError):
    """A server setting is invalid; ``place`` names it and its source."""


class Unauthorized(AdapterHubError):
    """A request has no valid API key."""


class Forbidden(AdapterHubError):
    """An API key does not permit the request."""


class QueueFull(AdapterHubError):
    """A request is rejected because a queue or a rate limit is exhausted.

    Args:
        problem: What is wrong, without a full stop.
        retry_after: Seconds after which a retry can succeed.
        place: Where it is wrong.
        hint: How to fix it.
    """

    def __init__(
        self, problem: str, *, retry_after: float, place: str = "", hint: str = ""
    ) -> None:
        self.retry_after = retry_after
        super().__init__(problem, place=place, hint=hint)


class TrainingError(AdapterHubError):
    """Training cannot start or continue."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite.

    Args:
        step: Optimizer step, counted from 1.
        examples: Numbers, counted from 1, of the training examples in the batch.
    """

    def __init__(self, step: int, examples: Iterable[int]) -> None:
        self.step = step
        self.examples = tuple(examples)
        listed = ", ".join(map(str, self.examples))
        super().__init__(
            f"the loss is not finite at step {step}",
            place=f"training examples {listed}",
            hint="Check these examples, lower optimizer.learning_rate or set optimizer.clip_norm",
        )


class TrainingInterrupted(TrainingError):
    """A run was interrupted and wrote a checkpoint.

    Args:
        step: Completed optimizer steps.
        folder: Run folder with the checkpoint.
    """

    def __init__(self, step: int, folder: object) -> None:
        self.step = step
        self.folder = folder
        super().__init__(
            f"interrupted after step {step}",
            place=str(folder),
            hint="Run the same command with --resume to continue",
        )


class MissingExtraError(AdapterHubError):
    """A required optional dependency is not installed.

    Args:
        package: Name of the package.
        extra: Extra of adapterhub that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(
            f"the package {package!r} is not installed",
            hint=f"Install it with: pip install 'adapterhub[{extra}]'",
        )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'?"`` for the nearest known name, or the list of known names.

    The result is the hint of an error; it is empty where nothing is known.
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
