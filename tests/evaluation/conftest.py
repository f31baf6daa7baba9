"""Tiny backbones, whose tokenizers the tasks need."""

from toy_fixtures import decoder, encoder

__all__ = ["decoder", "encoder"]
