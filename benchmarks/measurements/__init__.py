"""Published measurements read as the planner's own records: model, topology, job, strategy, and what was measured."""
