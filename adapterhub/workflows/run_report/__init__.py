"""The report at the end of a training run: one HTML file that needs nothing from elsewhere."""
