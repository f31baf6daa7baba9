"""The local registry of adapters."""

from adapterhub.registry.registry import Registry
from adapterhub.registry.version import Problem, Version

__all__ = ["Problem", "Registry", "Version"]
