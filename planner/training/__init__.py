"""Training plans: formulate the space, search it with proof, read the best strategy back."""

from .frontier import frontier_training
from .planning import estimate_training, plan_training

__all__ = ["estimate_training", "frontier_training", "plan_training"]
