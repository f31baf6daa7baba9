"""Merges of several adapters into one, as pure functions over tensors."""

from adapterhub.composition.compose import compose
from adapterhub.composition.method import METHODS, MergeMethod

__all__ = ["METHODS", "MergeMethod", "compose"]
