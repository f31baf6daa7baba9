"""Tiny backbones, and a home of its own for each test."""

from toy_fixtures import decoder, encoder, own_home

__all__ = ["decoder", "encoder", "own_home"]
