from toy_fixtures import command, own_home  # noqa: F401
