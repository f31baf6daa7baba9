from toy_fixtures import decoder  # noqa: F401
