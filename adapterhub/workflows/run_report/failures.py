"""Failures of a part of the run report, which must not lose the trained adapter."""

from __future__ import annotations

import logging

from adapterhub.errors import first_sentence


def log_failure(logger: logging.Logger, what: str, error: Exception) -> None:
    """Log a failure in one line, and its traceback where debug messages are shown."""
    kind = type(error).__name__
    reason = first_sentence(error)
    logger.error(
        "%s: %s; the adapter is stored without it",
        what,
        kind if reason == kind else f"{kind}: {reason}",
        exc_info=error if logger.isEnabledFor(logging.DEBUG) else None,
    )
