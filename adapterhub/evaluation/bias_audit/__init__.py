"""Bias audit: counterfactual fairness, refusals and stereotypes of an adapter and its backbone.

The built-in templates, word lists and requests are in ``data/``.
"""
