"""Linear layers whose weight is read by other modules, and so can't be quantized."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from adapterhub.backbones.loading import probe_inputs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, FrameType

_LOG = logging.getLogger(__name__)

#: ``self.path.weight``; where the weight is does not depend on how it is stored.
_READ = re.compile(r"\bself\.([\w.]+)\.weight\b(?!\.device)")
_NOT_COMPUTING = frozenset({"__init__", "_init_weights", "_tie_weights", "tie_weights"})
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def directly_read(base_model: nn.Module) -> set[int]:
    """Return the ids of linear layers whose weight or its type is read from outside of them.

    A quantized weight has another shape and type. Reads are found by a forward pass of a small
    input, and in the source of methods that it did not reach, as only some devices do.

    Args:
        base_model: Model on the CPU in the type of its file.
    """
    read: set[int] = set()
    reached: set[CodeType] = set()
    if not _run_watched(base_model, read, reached):
        reached.clear()
    for module in base_model.modules():
        if type(module).__module__.startswith("torch.nn") and not isinstance(module, _CONTAINERS):
            # attention of torch gives the weights of its layers to a function
            read |= {id(child) for child in module.children()}
        read |= {id(layer) for layer in _read_in_source(module, reached)}
    return read


def _read_in_source(module: nn.Module, reached: set[CodeType]) -> Iterator[nn.Module]:
    cls: Any = type(module)
    for code, paths in _reads_of(cls):
        for path in () if code in reached else paths:
            try:
                layer = module.get_submodule(path)
            except AttributeError:
                continue  # another variant of the class
            if isinstance(layer, nn.Linear | Conv1D):
                yield layer


@cache
def _reads_of(cls: Any) -> tuple[tuple[CodeType, frozenset[str]], ...]:
    """Return the methods of a class of transformers with the paths whose weight they read."""
    methods = [
        inspect.unwrap(method)
        for name, method in inspect.getmembers(cls, inspect.isfunction)
        if name not in _NOT_COMPUTING and method.__module__.startswith("transformers.models.")
    ]
    found = [(m.__code__, frozenset(_READ.findall(inspect.getsource(m)))) for m in methods]
    return tuple((code, paths) for code, paths in found if paths)


def _run_watched(base_model: Any, read: set[int], reached: set[CodeType]) -> bool:
    """Run a small input; return whether the base model takes it.

    Args:
        read: Receives the ids of layers whose weight is read.
        reached: Receives the functions that ran.
    """

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            reached.add(frame.f_code)

    def run() -> bool:
        sys.setprofile(note)
        try:
            with _watched(base_model, read), torch.no_grad():
                base_model(**probe_inputs(base_model))
        except Exception as error:  # noqa: BLE001 - an architecture may raise anything
            _LOG.info(
                "reads of weights are taken from the source of %s, because it does not run on a "
                "small input: %s",
                type(base_model).__name__,
                type(error).__name__,
            )
            return False
        finally:
            sys.setprofile(None)
        return True

    # a thread has a profile function of its own; that of the caller may be a profiler
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(run).result()


@contextmanager
def _watched(base_model: nn.Module, read: set[int]) -> Iterator[None]:
    """Record inside the block whose weight is read other than by the layer's own forward."""

    class WatchedLinear(nn.Linear):
        def __getattr__(self, name: str) -> Any:
            if name == "weight":
                read.add(id(self))
            return super().__getattr__(name)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x, self._parameters["weight"], self.bias)

    layers = [layer for layer in base_model.modules() if type(layer) is nn.Linear]
    try:
        for layer in layers:
            layer.__class__ = WatchedLinear
        yield
    finally:
        for layer in layers:
            layer.__class__ = nn.Linear
