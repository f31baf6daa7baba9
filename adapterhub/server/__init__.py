"""The engine behind HTTP: an API that OpenAI's clients speak, and a page for people."""
