"""Refresh a registered adapter: train a child on new examples and a share of the old ones."""
