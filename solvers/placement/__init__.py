"""Layered placement of items on devices: exact where the states are few, annealed and bounded where they are not."""

from . import bisection, fanout, heaviest, two_stage
from .annealing import Schedule, anneal
from .bounds import Floor, floor
from .migration import rebalance
from .placing import Effort, packed, place, value_of
from .problem import PlacementProblem, Score, contiguous, fill, peaks_of, score
from .slots import SlotPlacement, even_weights, follow, followed_score, one_copy_each, slot_loads
from .spares import with_empty

__all__ = [
    "Effort",
    "Floor",
    "PlacementProblem",
    "Schedule",
    "Score",
    "SlotPlacement",
    "anneal",
    "bisection",
    "contiguous",
    "even_weights",
    "fanout",
    "fill",
    "floor",
    "follow",
    "followed_score",
    "heaviest",
    "one_copy_each",
    "packed",
    "peaks_of",
    "place",
    "rebalance",
    "score",
    "slot_loads",
    "two_stage",
    "value_of",
    "with_empty",
]
