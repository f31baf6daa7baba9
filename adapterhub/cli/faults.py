"""The table of errors at the command line: what is said, and the exit code."""

from __future__ import annotations

from adapterhub.errors import (
    AdapterHubError,
    ArtifactError,
    BackboneError,
    DataError,
    FingerprintMismatch,
    IntegrityError,
    NotFoundError,
    RecipeError,
    RefError,
    SettingsError,
    SignatureError,
    TrainingInterrupted,
    TransferError,
)

#: The first class that fits decides; anything else ends with 1.
EXIT_CODES: tuple[tuple[type[AdapterHubError], int], ...] = (
    (RecipeError, 2),
    (RefError, 2),
    (SettingsError, 2),
    (DataError, 3),
    (NotFoundError, 4),
    (IntegrityError, 5),
    (ArtifactError, 5),
    (FingerprintMismatch, 6),
    (BackboneError, 7),
    (SignatureError, 9),
    (TransferError, 10),
    (TrainingInterrupted, 130),
)


def exit_code(error: AdapterHubError) -> int:
    """Return the process's exit code for an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def message(error: AdapterHubError) -> str:
    """Return the line shown to a person."""
    return f"error: {error}"
