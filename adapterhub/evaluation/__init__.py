"""Evaluation of predictions: intervals, tests, calibration, errors, drift and data quality."""
