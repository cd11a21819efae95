"""Bin packing with identical items and priced bins: Mélange's program, aggregated and exact."""

from .problem import BinPacking, Packed
from .search import solve

__all__ = ["BinPacking", "Packed", "solve"]
