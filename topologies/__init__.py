"""Where it runs: accelerators, topology graphs, measured links and collectives on groups of devices."""

from .accelerators import Accelerator, accelerator, list_accelerators
from .clusters import cluster, cluster_entry, list_clusters
from .collectives import Collectives, GroupTimes
from .document import Measured
from .errors import TopologyError
from .mpigraph import read_mpigraph
from .topology import Topology, parse_topology, topology_document
from .uncertainty import uncertain

__all__ = [
    "Accelerator",
    "Collectives",
    "GroupTimes",
    "Measured",
    "Topology",
    "TopologyError",
    "accelerator",
    "cluster",
    "cluster_entry",
    "list_accelerators",
    "list_clusters",
    "parse_topology",
    "read_mpigraph",
    "topology_document",
    "uncertain",
]
