"""The kernel of a device, and what the log says about it."""

import logging

import pytest

from adapterhub.kernels import choice
from adapterhub.kernels.lora_rows import ReferenceKernel
from adapterhub.kernels.lora_rows_cpu import CpuKernel


def chosen(device, caplog):
    with caplog.at_level(logging.INFO):
        kernel = choice.choose_kernel(device)
    (record,) = caplog.records
    return kernel, record


def test_a_cpu_gets_loops_compiled_for_it(caplog):
    kernel, record = chosen("cpu", caplog)
    assert isinstance(kernel, CpuKernel)
    assert record.levelno == logging.INFO
    assert choice.choose_attention("cpu") is None


def test_a_gpu_gets_tritons_programs(caplog):
    pytest.importorskip("triton", reason="triton is not installed")
    from adapterhub.kernels.triton.attention import attend_pages
    from adapterhub.kernels.triton.lora_rows import TritonKernel

    kernel, record = chosen("cuda", caplog)
    assert isinstance(kernel, TritonKernel)
    assert (record.levelno, "Triton" in record.message) == (logging.INFO, True)
    assert choice.choose_attention("cuda") is attend_pages


def test_without_triton_the_log_warns(caplog, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    kernel, record = chosen("cuda", caplog)
    assert isinstance(kernel, ReferenceKernel)
    assert record.levelno == logging.WARNING
    assert "triton is not installed" in record.message
    assert choice.choose_attention("cuda") is None


def test_a_device_without_a_kernel_is_named(caplog):
    kernel, record = chosen("npu", caplog)
    assert isinstance(kernel, ReferenceKernel)
    assert (record.levelno, "npu" in record.message) == (logging.WARNING, True)
