"""Joins machines and models: workloads, strategies, cost models, plans, validation, export and the command line."""
