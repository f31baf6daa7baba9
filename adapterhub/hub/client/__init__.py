"""The Hub as a client: push a version to a repository, pull an adapter from one.

Nothing is imported here: a push needs none of the libraries that a pull compares models with.
"""
