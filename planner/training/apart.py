"""Bounds for clusters of unlike nodes and of several networks: what no order of nodes can do better than.

Where the kinds of node or of network differ, every transfer takes at least as long as on the kind that is fastest at
it. Where networks are joined by links of their own, moreover, somebody must cross. Either whole stages lie inside
networks, so that every pipeline goes from network to network; or some stage lies on several, and one of the groups that
tie its ranks together crosses, those that divide the states or those that hold replicas.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Collectives, GroupTimes, Topology, parse_topology

from ..costs.keys import Floats
from ..costs.network import Groups, Network, groups_of
from ..costs.rows import Rows
from ..costs.sharding import dense_partition, sharding_time
from ..costs.step import StepCosts, TrainingCosts
from ..workload.strategy_table import Ints, StrategyTable

_OF_STATES = ("reduce_scatter", "all_gather", "broadcast")
_OF_REPLICAS = ("all_reduce", "send_recv")


@dataclass(frozen=True)
class KindsNetwork(Network):
    """Every transfer as among nodes of the kind that is fastest at it; free where there is none to compare."""

    kinds: tuple[Network, ...]

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry."""
        times = [kind.seconds(op, size_bytes, groups) for kind in self.kinds]
        shape = np.broadcast_shapes(np.shape(size_bytes), np.shape(groups.degree))
        return np.asarray(np.minimum.reduce(times)) if times else np.zeros(shape)


def kinds_network(topology: Topology, base: Network) -> KindsNetwork:
    """The fastest of each kind of node on its own network. Kinds whose scale-up domains differ in size are not
    compared: groups would lie on them in other ways."""
    nodes, networks = topology.document["nodes"], topology.document.get("networks", ())
    sizes = set(np.bincount(topology.device_domain).tolist())
    if sizes != {base.domain}:
        return KindsNetwork(base.collectives, base.domain, ())
    kinds = []
    for group in nodes:
        named = [each for each in networks if each["name"] == group.get("network")] or list(networks[:1])
        kinds.append(_alike(topology, base, group, named))
    return KindsNetwork(base.collectives, base.domain, tuple(kinds))


def _alike(topology: Topology, base: Network, group: dict[str, object], networks: list[dict[str, object]]) -> Network:
    """A cluster as large as this one, all of whose nodes are of one group on one network."""
    hosts = topology.n_domains * int(str(group.get("domain_nodes", 1)))
    document = {key: value for key, value in topology.document.items() if key in ("schema", "name", "accelerators")}
    document |= {"nodes": [group | {"count": hosts}], "networks": networks}
    return Network(Collectives(parse_topology(document), base.collectives.coefficients), base.domain)


@dataclass(frozen=True)
class _Pipes(KindsNetwork):
    """Pipelines that go from network to network, stages that do not."""

    crossings: int
    way: Crossing

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds over the slowest boundary and over all of them: at least those between networks."""
        slowest, total = super().hop_seconds(table, size_bytes)
        hop = self.way.hop_seconds(table, size_bytes)
        return np.maximum(slowest, hop), np.maximum(total, self.crossings * hop)


@dataclass(frozen=True)
class _Across(KindsNetwork):
    """Groups of some operations that lie on several networks."""

    ops: tuple[str, ...]
    way: Crossing

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry."""
        times = super().seconds(op, size_bytes, groups)
        if op not in self.ops:
            return times
        # a group that does not fill domains evenly may have halves on two of them
        even = _even(groups, self.domain)
        inside = np.where(even, groups.ranks_per_domain, np.maximum(groups.degree // 2, 1))
        domains = np.where(even, groups.domains, np.minimum(groups.degree, 2))
        # blocks of `stride` ranks lie on one network each, so that all groups of a block cross together
        sharing = np.maximum(groups.sharing, groups.stride) if self.way.shared else groups.sharing
        crowded = Groups(groups.stride, inside, domains, sharing)
        slow = np.minimum.reduce([each.seconds(op, size_bytes, crowded) for each in self.way.slow])
        return np.where(_may_cross(groups, self.domain), np.maximum(times, slow), times)


def _even(groups: Groups, domain: int) -> NDArray[np.bool_]:
    """Whether groups fill domains evenly, from inside or whole ones."""
    span = groups.stride * groups.degree
    whole = (span % domain == 0) & ((domain % groups.stride == 0) | (groups.stride % domain == 0))
    return np.asarray((domain % span == 0) | whole)


def _may_cross(groups: Groups, domain: int) -> NDArray[np.bool_]:
    """Whether groups can lie on several domains: not where their ranks fill domains evenly from inside."""
    result: NDArray[np.bool_] = (groups.degree > 1) & (domain % (groups.stride * groups.degree) != 0)
    return result


@dataclass(frozen=True)
class Crossing:
    """The ways between networks, each of which holds nodes of one kind only.

    `slow` are clusters whose domains are all as far apart as the nearest networks; `shared` says that all traffic
    between two networks takes one link.
    """

    topology: Topology
    collectives: Collectives
    members: tuple[NDArray[np.int64], ...]
    slow: tuple[Network, ...]
    shared: bool

    def whole(self, stage: Ints) -> NDArray[np.bool_]:
        """Whether stages of that many ranks can all lie inside networks."""
        result: NDArray[np.bool_] = np.ones(len(stage), bool)
        for devices in self.members:
            result &= len(devices) % stage == 0
        return result

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> Floats:
        """Seconds from a whole stage on one network to one on another, over the fastest way there is."""
        stages = table.world_size // table.pp
        result = np.zeros(len(table))
        for stage in np.unique(stages[self.whole(stages)]).tolist():
            rows = np.flatnonzero(stages == stage)
            sizes, inverse = np.unique(size_bytes[rows], return_inverse=True)
            result[rows] = np.minimum.reduce([way.seconds(sizes).max(axis=0) for way in self._ways(stage)])[inverse]
        return result

    def _ways(self, stage: int) -> list[GroupTimes]:
        if stage not in self._known:
            pairs = [(a, b) for a in self.members for b in self.members if a is not b]
            rows = [np.stack([a[:stage], b[:stage]], axis=1) for a, b in pairs]
            self._known[stage] = [self.collectives.of_groups("send_recv", each) for each in rows]
        return self._known[stage]

    @functools.cached_property
    def _known(self) -> dict[int, list[GroupTimes]]:
        return {}


def crossing_of(topology: Topology, base: Network) -> Crossing | None:
    """The ways between the networks of a cluster; None where it is one network, or one of them mixes kinds of node."""
    home = topology.node_network
    numbers = np.unique(home)
    if len(numbers) < 2 or any(len(np.unique(topology.node_group[home == each])) > 1 for each in numbers):
        return None
    a, b = (each.ravel() for each in np.meshgrid(np.arange(topology.n_nodes), np.arange(topology.n_nodes)))
    apart = home[a] != home[b]
    rate = float(topology.node_rate_bytes_per_s(a[apart], b[apart]).max())
    first = np.searchsorted(topology.device_node, np.arange(topology.n_nodes))
    latency = float(topology.latency_s(first[a[apart]], first[b[apart]]).min())
    level: dict[str, object] = {
        "kind": "fat_tree",
        "name": "apart",
        "levels": [{"nodes": topology.n_nodes, "latency_s": latency}],
    }
    slow = []
    for group in topology.document["nodes"]:
        nics = group["nics"] | {"count": 1, "bandwidth_bytes_per_s": rate, "latency_s": 0.0}
        slow.append(_alike(topology, base, group | {"network": "apart", "nics": nics}, [level]))
    devices = [np.flatnonzero(home[topology.device_node] == each) for each in numbers]
    shared = bool(topology.link_is_shared(a[apart], b[apart]).all())
    return Crossing(topology, base.collectives, tuple(devices), tuple(slow), shared)


class ApartCosts(TrainingCosts):
    """Costs whose step is the least of the two ways to lie on several networks."""

    def __init__(self, costs: TrainingCosts, network: KindsNetwork, crossing: Crossing) -> None:
        self.__dict__.update(costs.__dict__)
        self.network, self.crossing = network, crossing
        self._pipes = copy.copy(costs)
        count = len(crossing.members) - 1
        self._pipes.network = _Pipes(network.collectives, network.domain, network.kinds, count, crossing)

    def step(self, rows: Rows) -> StepCosts:
        """Step time, of which no order of nodes has less, and memory of rows already gathered."""
        inside = super().step(rows)
        piped = self._pipes.step(rows).step_s
        table = rows.table
        whole = self.crossing.whole(table.world_size // table.pp) & (table.pp >= len(self.crossing.members))
        least = np.minimum(np.where(whole, piped, np.inf), self._across_s(rows, inside))
        return replace(inside, step_s=np.where(np.isfinite(least), least, inside.step_s))

    def _across_s(self, rows: Rows, inside: StepCosts) -> Floats:
        """Seconds of a step if some group of a stage crosses; infinite where none can."""
        table, network = rows.table, self.network
        assert isinstance(network, KindsNetwork)
        part = dense_partition(table)
        within = (table.weight_shard == 0) & (table.gradient_shard == 0)
        load = self.stage_load(rows, *self.stage_seconds(rows))
        load = replace(load, expert_parameters=np.zeros(len(table)))
        shown = inside.sharding.gradients_s + inside.sharding.weights_s
        least = np.where(network.domain % table.tp != 0, inside.step_s, np.inf)
        for ops, groups, known in (
            (_OF_STATES, groups_of(part.stride, part.states, network.domain), within),
            (_OF_REPLICAS, groups_of(part.stride * part.states, part.replicas, network.domain), True),
        ):
            across = _Across(network.collectives, network.domain, network.kinds, ops, self.crossing)
            made = sharding_time(table, load, rows.microbatches, across, self.device, self.states)
            longer = np.where(known, np.maximum(made.gradients_s + made.weights_s - shown, 0.0), 0.0)
            possible = _may_cross(groups, network.domain) & self.crossing.whole(groups.stride)
            least = np.where(possible, np.minimum(least, inside.step_s + longer), least)
        return least
