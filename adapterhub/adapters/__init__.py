"""Adapter weights, artifacts and manifests, and their conversion from and to peft."""
