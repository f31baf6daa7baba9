"""Tasks that join the registry, the engine and training."""
