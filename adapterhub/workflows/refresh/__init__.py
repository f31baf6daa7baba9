"""A child of a stored adapter, trained on new rows and some of the old ones."""
