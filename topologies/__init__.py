"""Where it runs: accelerators, topology graphs, measured links and collectives on groups of devices."""

from .errors import TopologyError

__all__ = ["TopologyError"]
