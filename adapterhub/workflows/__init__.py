"""Workflows that combine registry, engine and training."""
