"""Does an adapter treat people alike, and what would it say? Measured beside the backbone.

Own small lists of words, sentences and requests lie in ``data/``.
"""
