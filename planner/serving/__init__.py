"""Serving: simulation, closed forms, and the search for the best deployment."""
