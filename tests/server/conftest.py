"""A home of its own for each test."""

from toy_fixtures import command, own_home

__all__ = ["command", "own_home"]
