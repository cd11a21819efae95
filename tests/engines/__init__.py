"""Serving exports held to the real engines, in `make test-engines`."""
