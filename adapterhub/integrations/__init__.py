"""Bridges to outside systems, one file each."""
