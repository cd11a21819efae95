"""Training plans: formulate the space, search it with proof, read the best strategy back."""

from .planning import estimate_training, plan_training

__all__ = ["estimate_training", "plan_training"]
