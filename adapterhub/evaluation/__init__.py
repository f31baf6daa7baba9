"""What can be said of predictions once they are made: how sure a metric is, where it fails.

Pure functions over examples and raw predictions; no model is run here.
"""
