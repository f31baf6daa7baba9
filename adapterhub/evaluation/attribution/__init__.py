"""Word attributions of an adapter's answers."""
