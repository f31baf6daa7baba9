"""Tiny backbones, small tasks to learn, and a home of its own for each test."""

from toy_fixtures import command, decoder, encoder, moods, own_home, recipe, talks

__all__ = ["command", "decoder", "encoder", "moods", "own_home", "recipe", "talks"]
