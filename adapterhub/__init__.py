"""Train, store, compose and serve many small task adapters on one frozen, quantized backbone."""
