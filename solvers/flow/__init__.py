"""A chain of layers over unequal nodes and links: the placement of most flow."""

from .bounds import cover_bound, flow_bound
from .problem import ChainFlow, Placement, Stage, maximum_flow, place
from .search import fewest_hops, solve

__all__ = [
    "ChainFlow",
    "Placement",
    "Stage",
    "cover_bound",
    "fewest_hops",
    "flow_bound",
    "maximum_flow",
    "place",
    "solve",
]
