"""Tiny backbones, whose tokenizers the tasks need."""

from toy_fixtures import encoder

__all__ = ["encoder"]
