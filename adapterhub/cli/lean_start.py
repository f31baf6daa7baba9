"""Start of a command that trains nothing: fewer imports, and no garbage collection meanwhile.

transformers, peft and bitsandbytes import torch's compiler, its distributed tensors and scipy's
optimizer for functions that a process that predicts or serves never calls. That takes 2 of 7
seconds, and 1 more goes into garbage collections that find nothing. Stand-ins take the place of
these modules; the first request for anything else imports the real module.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

#: Setting of torch that turns its compiler off.
_COMPILER_OFF = "TORCHDYNAMO_DISABLE"
_TRACE = "torch._dynamo._trace_wrapped_higher_order_op"


@contextmanager
def lean_start() -> Iterator[None]:
    """Import libraries and load a model inside the block, without what only training needs.

    What is in memory at the end of the block is left out of later garbage collections.
    """
    gc.disable()
    try:
        _without_compiler()
        stand_in("scipy.optimize", {"linear_sum_assignment": None})
        with _without_distributed():
            yield
    finally:
        gc.freeze()
        gc.enable()
        # the collections at exit would visit every module again
        atexit.register(gc.freeze)


def stand_in(name: str, attributes: Mapping[str, Callable[..., Any] | None]) -> None:
    """Put a stand-in in the place of a module that is not imported yet.

    Args:
        name: Full name of the module.
        attributes: What importers take from it; a function that imports the real module when it is
            called where ``None``.
    """
    if name in sys.modules:
        return
    if not any(isinstance(each, _SubmoduleFinder) for each in sys.meta_path):
        sys.meta_path.insert(0, _SubmoduleFinder())
    module = _StandIn(name)
    # the import system looks for submodules of packages alone
    module.__path__ = []
    for attribute, value in attributes.items():
        setattr(module, attribute, value or _deferred(name, attribute))
    sys.modules[name] = module


class _StandIn(ModuleType):
    """Module without its code until another attribute of it is read."""

    def __getattr__(self, name: str) -> Any:
        # the import system and ``inspect`` look at these of every module
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_real(self.__name__), name)


class _SubmoduleFinder:
    """Imports the real module before one of its submodules is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a submodule of a module that had a stand-in until now."""
        parent = name.rpartition(".")[0]
        if not isinstance(sys.modules.get(parent), _StandIn):
            return None
        real = _real(parent)
        if name in sys.modules:
            loader: Any = _Imported()
            return ModuleSpec(name, loader)
        return PathFinder.find_spec(name, real.__path__, target)


class _Imported:
    """Loader of modules that are imported already."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself."""
        return sys.modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module as it is."""


def _real(name: str) -> ModuleType:
    """Import a module in the place of its stand-in, and of those below and above it."""
    package = ".".join(name.split(".")[:2])
    for each in [each for each in sys.modules if f"{each}.".startswith(f"{package}.")]:
        if isinstance(sys.modules[each], _StandIn):
            del sys.modules[each]
    return importlib.import_module(name)


def _deferred(module: str, attribute: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(_real(module), attribute)(*args, **kwargs)

    return call


def _without_compiler() -> None:
    """Let decorators of torch's compiler, which is turned off, return their functions unchanged."""
    if os.environ.setdefault(_COMPILER_OFF, "1") != "1" or "torch._dynamo" in sys.modules:
        return
    import torch

    marks = ("allow_in_graph", "assume_constant_result", "disable", "mark_static_address")
    stand_in("torch._dynamo", dict.fromkeys(marks, _unchanged))
    stand_in(_TRACE, {"TransformGetItemToIndex": None})
    torch._dynamo = sys.modules["torch._dynamo"]
    torch.compile = _unchanged


@contextmanager
def _without_distributed() -> Iterator[None]:
    """Report torch as built without support for several processes, which is requested only once."""
    import torch.distributed

    available = torch.distributed.is_available
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        torch.distributed.is_available = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_available = available


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    return (lambda each: each) if function is None else function
