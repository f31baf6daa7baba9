"""API keys and tokens, shared by the server and the Hub endpoint."""
