"""A home of its own for each test."""

from toy_fixtures import own_home

__all__ = ["own_home"]
