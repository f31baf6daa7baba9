"""Messages of other libraries that nobody can act on do not reach the user; all others do."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING

from adapterhub.backbones.architecture import quiet_transformers
from adapterhub.third_party import drop_known_messages, without_warnings

if TYPE_CHECKING:
    import pytest

_LOGGER = "bitsandbytes.backends.cpu.ops"


def test_importing_the_model_libraries_writes_nothing() -> None:
    code = "import adapterhub.backbones.quantize, adapterhub.backbones.task_model"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_other_messages_of_the_same_logger_stay(caplog: pytest.LogCaptureFixture) -> None:
    drop_known_messages()
    drop_known_messages()
    logger = logging.getLogger(_LOGGER)
    assert len(logger.filters) == 1
    # a command that another test ran shows errors alone
    with caplog.at_level(logging.WARNING, logger=_LOGGER):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "no")
        logger.warning("a device is missing")
    assert [record.getMessage() for record in caplog.records] == ["a device is missing"]


def test_transformers_is_quiet_inside_a_block_and_as_before_after_it() -> None:
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.get_verbosity()
    try:
        transformers_logging.set_verbosity_info()
        with quiet_transformers():
            assert transformers_logging.get_verbosity() == logging.ERROR
        assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity(before)


def test_warnings_are_dropped_around_a_call_only() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with without_warnings():
            warnings.warn("of a library", FutureWarning, stacklevel=1)
        warnings.warn("of the user", FutureWarning, stacklevel=1)
    assert [str(each.message) for each in caught] == ["of the user"]
