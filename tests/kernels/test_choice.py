"""Choice of the kernels of a device, and its log message."""

import logging

import pytest

from adapterhub.kernels import choice
from adapterhub.kernels.attention import cpu, reference
from adapterhub.kernels.lora.cpu import CpuLoraKernel
from adapterhub.kernels.lora.reference import ReferenceLoraKernel


def chosen(device, caplog):
    with caplog.at_level(logging.INFO):
        kernel = choice.choose_lora_kernel(device)
    (record,) = caplog.records
    return kernel, record


def test_cpus_get_the_numba_kernels(caplog):
    kernel, record = chosen("cpu", caplog)
    assert isinstance(kernel, CpuLoraKernel)
    assert record.levelno == logging.INFO
    assert choice.choose_paged_attention("cpu") is cpu.attend_pages


def test_gpus_get_the_triton_kernels(caplog):
    pytest.importorskip("triton", reason="triton is not installed")
    from adapterhub.kernels.attention.triton import attend_pages
    from adapterhub.kernels.lora.triton import TritonLoraKernel

    kernel, record = chosen("cuda", caplog)
    assert isinstance(kernel, TritonLoraKernel)
    assert (record.levelno, "triton" in record.message) == (logging.INFO, True)
    assert choice.choose_paged_attention("cuda") is attend_pages


def test_without_triton_the_log_warns(caplog, monkeypatch):
    monkeypatch.setattr(choice, "find_spec", lambda name: None)
    kernel, record = chosen("cuda", caplog)
    assert isinstance(kernel, ReferenceLoraKernel)
    assert record.levelno == logging.WARNING
    assert "triton is not installed" in record.message
    assert choice.choose_paged_attention("cuda") is reference.attend_pages


def test_the_log_names_a_device_without_kernels(caplog):
    kernel, record = chosen("npu", caplog)
    assert isinstance(kernel, ReferenceLoraKernel)
    assert (record.levelno, "npu" in record.message) == (logging.WARNING, True)
