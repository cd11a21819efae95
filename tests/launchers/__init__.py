"""Exports held to the real launchers."""
