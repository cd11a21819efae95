"""Small named topologies and the check that a refusal is one clear line."""

from __future__ import annotations

import copy

import pytest

from shardwright.topologies import Topology, TopologyError, parse_topology

TWO_NODES = {
    "schema": "shardwright.topology/1",
    "name": "two-nodes",
    "nodes": [
        {
            "name": "node",
            "count": 2,
            "accelerator": "H100-SXM5-80GB",
            "devices": 4,
            "fabric": {"kind": "switch", "bandwidth_bytes_per_s": 450e9, "latency_s": 1e-6},
            "nics": {"count": 4, "bandwidth_bytes_per_s": 50e9, "latency_s": 1e-6, "kind": "ib"},
        }
    ],
    "networks": [{"kind": "rail", "name": "fabric", "pod_nodes": 32, "latency_s": 1e-6}],
}


def changed(document=TWO_NODES, **changes) -> dict:
    """A deep copy with values replaced; keys are paths such as `nodes__0__count`, `...` removes the entry."""
    result = copy.deepcopy(document)
    for path, value in changes.items():
        *steps, last = (int(step) if step.isdigit() else step for step in path.split("__"))
        place = result
        for step in steps:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return result


def two_nodes(**changes) -> Topology:
    return parse_topology(changed(**changes))


def refusal(document) -> str:
    """The message of the TopologyError that a document raises; fails unless it is one line."""
    with pytest.raises(TopologyError) as caught:
        parse_topology(document)
    message = str(caught.value)
    assert message and "\n" not in message
    return message
