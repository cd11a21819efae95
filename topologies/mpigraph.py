"""Reading mpiGraph: node-to-node bandwidths as one MPI process per node measures them."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .document import Measured, NodeMatrix
from .errors import TopologyError
from .units import check_positive

_SECTIONS = {"receive": "0", "send": "1"}


def read_mpigraph(
    document: object, direction: Literal["send", "receive"] = "send", scope: Literal["nic", "node"] = "nic"
) -> Measured:
    """The measured section that an mpiGraph JSON stands for, in MB/s (10⁶ bytes per second).

    The document maps "0" to what every node received and "1" to what every node sent, each `{gpus: [hosts],
    bandwidth: [[…]]}`. A row is the node that counted, so a sent matrix is source by destination as it stands and a
    received one is transposed: "0"[i][j] is the same transfer as "1"[j][i]. By default the sent matrix is used. The
    diagonal is synthetic and ignored. mpiGraph runs one process on each node, which talks through one NIC; pass
    `scope="node"` when it was set up to use all of them.

    Raises TopologyError on any other shape.
    """
    if not isinstance(document, dict):
        raise TopologyError(f"an mpiGraph file must be a mapping with '0' and '1' but is {type(document).__name__}")
    key = _SECTIONS[direction]
    section = document.get(key)
    if not isinstance(section, dict) or not isinstance(section.get("bandwidth"), list):
        raise TopologyError(f"$.{key}.bandwidth: expected the {direction} matrix of mpiGraph, a list of rows")
    rows = section["bandwidth"]
    hosts = section.get("gpus", section.get("nodes"))
    if hosts is not None and (not isinstance(hosts, list) or len(hosts) != len(rows)):
        raise TopologyError(f"$.{key}.gpus: expected {len(rows)} host names, one for each row")
    for i, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(rows):
            raise TopologyError(f"$.{key}.bandwidth[{i}]: expected {len(rows)} values, as many as there are rows")
        for j, value in enumerate(row):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TopologyError(f"$.{key}.bandwidth[{i}][{j}]: expected a number but got {value!r}")
            if i != j:
                check_positive(f"$.{key}.bandwidth[{i}][{j}]", value)
    matrix = np.array(rows, dtype=float)
    if direction == "receive":
        matrix = matrix.T
    values = [[None if i == j else value for j, value in enumerate(row)] for i, row in enumerate(matrix.tolist())]
    source = f"mpiGraph, {direction} matrix"
    names = tuple(str(host) for host in hosts or ())
    return Measured(node_bandwidth=NodeMatrix(unit="MB/s", scope=scope, matrix=values, nodes=names, source=source))
