"""Optuna, imported where it is used."""

from __future__ import annotations

import warnings
from typing import Any

from adapterhub.errors import MissingExtraError


def import_optuna() -> Any:
    """Return the package, told to keep to warnings.

    Raises:
        MissingExtraError: when it isn't installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "sweep") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna
