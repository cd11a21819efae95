"""Terminal views of plans, models and topologies."""
