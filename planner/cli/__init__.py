"""The command line: a thin caller of the public functions."""

from .main import main

__all__ = ["main"]
