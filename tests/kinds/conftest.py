"""A tiny decoder, and a home of its own for each test."""

from toy_fixtures import decoder, own_home

__all__ = ["decoder", "own_home"]
