"""Expert placement: formulate on a cluster, solve, replay, re-plan and hand over."""
