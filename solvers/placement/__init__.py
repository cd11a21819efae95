"""Layered placement of items on devices: exact where the states are few, annealed and bounded where they are not."""
