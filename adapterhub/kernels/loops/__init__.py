"""Loops that numba compiles; NumPy arrays in, everything checked by who calls them.

bfloat16 comes as ``uint16``. Argument types are told by the callers' docstrings.
"""
