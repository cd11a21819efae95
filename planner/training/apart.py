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
from ..costs.pipeline import pipeline_time
from ..costs.rows import Rows
from ..costs.sharding import dense_partition, sharding_time
from ..costs.step import StepCosts, TrainingCosts
from ..workload.strategy_table import Ints, StrategyTable

_OF_STATES = ("reduce_scatter", "all_gather", "broadcast")
_OF_REPLICAS = ("all_reduce", "send_recv")
_RINGS = ("reduce_scatter", "all_gather", "broadcast", "all_reduce")


@dataclass(frozen=True)
class KindsNetwork(Network):
    """Every transfer as among nodes of the kind that is fastest at it; free where there is none to compare."""

    kinds: tuple[Network, ...]

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry."""
        times = [kind.seconds(op, size_bytes, _least(groups, self.domain)) for kind in self.kinds]
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
class _Left(KindsNetwork):
    """Rings of which some lie on each of several networks, wholly or in part: they take as long as there."""

    ways: tuple[Crossing, ...]

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry."""
        times = super().seconds(op, size_bytes, groups)
        if op not in _RINGS:
            return times
        crosses, even = _may_cross(groups, self.domain), _even(groups, self.domain)
        for way in self.ways:
            # how groups that do not fill domains evenly lie on them is not known
            own = np.where(even, self.kinds[way.kind].seconds(op, size_bytes, groups), 0.0)
            if crosses.any():
                own = np.where(crosses, np.minimum(own, way.seconds(op, size_bytes, groups)), own)
            times = np.maximum(times, own)
        return times

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds over the slowest boundary and over all of them, of which few are on slow networks."""
        return KindsNetwork(self.collectives, self.domain, self.kinds).hop_seconds(table, size_bytes)


@dataclass(frozen=True)
class _Pipes(_Left):
    """Pipelines that leave networks, from whole stages on them or from stages that lie on others too."""

    whole: bool

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds over the slowest boundary and over all of them: at least those that leave each of the networks, of
        which every boundary leaves two."""
        slowest, total = super().hop_seconds(table, size_bytes)
        hops = np.stack([way.hop_seconds(table, size_bytes, self.whole) for way in self.ways])
        most, least = hops.max(axis=0), hops.min(axis=0)
        crossing = most + max(len(self.ways) - 2, 0) * least
        return np.maximum(slowest, most), np.maximum(total, crossing)


@dataclass(frozen=True)
class _Across(_Left):
    """Groups of some operations that leave a network; with `together` all of ranks that lie together do."""

    ops: tuple[str, ...]
    way: Crossing
    together: bool

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry."""
        times = super().seconds(op, size_bytes, groups)
        if op not in self.ops:
            return times
        slow = self.way.seconds(op, size_bytes, groups, together=self.together)
        return np.where(_may_cross(groups, self.domain), np.maximum(times, slow), times)


def _even(groups: Groups, domain: int) -> NDArray[np.bool_]:
    """Whether groups fill domains evenly, from inside or whole ones."""
    span = groups.stride * groups.degree
    whole = (span % domain == 0) & ((domain % groups.stride == 0) | (groups.stride % domain == 0))
    return np.asarray((domain % span == 0) | whole)


def _least(groups: Groups, domain: int) -> Groups:
    """Groups as they lie on domains at least: one that does not fill them evenly may have halves on two, as have so
    many others of its block as straddle wherever a domain ends within that."""
    even = _even(groups, domain)
    inside = np.where(even, groups.ranks_per_domain, np.clip(groups.degree // 2, 1, domain))
    domains = np.where(even, groups.domains, np.minimum(groups.degree, 2))
    straddling = np.minimum(np.gcd(groups.stride * groups.degree, domain), groups.stride)
    return Groups(groups.stride, inside, domains, np.where(even, groups.sharing, straddling))


def _tied(groups: Groups, domain: int) -> Ints:
    """Domains that groups tie together, so that a network without all of them is left; 1 where that is not known.

    Groups of fewer ranks than a domain that do not fill it tie neighbours, up to where groups and domains end together.
    """
    span = groups.stride * groups.degree
    chained = np.where(span < domain, np.lcm(span, domain) // domain, 1)
    return np.where(_even(groups, domain), groups.domains, chained)


def _may_cross(groups: Groups, domain: int) -> NDArray[np.bool_]:
    """Whether groups can lie on several domains: not where their ranks fill domains evenly from inside."""
    result: NDArray[np.bool_] = (groups.degree > 1) & (domain % (groups.stride * groups.degree) != 0)
    return result


@dataclass(frozen=True)
class Crossing:
    """The ways that leave a network, whose nodes are of one kind as are those of each other network.

    `slow` are clusters whose domains are all as far apart as the network is from the nearest other; `shared` says that
    all traffic between two networks takes one link.
    """

    collectives: Collectives
    domain: int
    kind: int
    members: NDArray[np.int64]
    others: tuple[NDArray[np.int64], ...]
    slow: tuple[Network, ...]
    shared: bool

    def whole(self, stage: Ints) -> NDArray[np.bool_]:
        """Whether the network can consist of whole stages of that many ranks."""
        result: NDArray[np.bool_] = len(self.members) % stage == 0
        return result

    def seconds(self, op: str, size_bytes: Floats, groups: Groups, *, together: bool = False) -> Floats:
        """Seconds of a collective of groups that leave the network, for every entry."""
        least = _least(groups, self.domain)
        # where blocks of `stride` ranks lie on one network each, all groups of a block cross together
        crowded = together & _even(groups, self.domain)
        sharing = np.where(crowded, np.maximum(least.sharing, groups.stride), least.sharing)
        least = Groups(groups.stride, least.ranks_per_domain, least.domains, sharing)
        return np.asarray(np.minimum.reduce([each.seconds(op, size_bytes, least) for each in self.slow]))

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats, whole: bool) -> Floats:
        """Seconds from a stage on the network to one elsewhere, or back, over the fastest way there is."""
        stages = table.world_size // table.pp
        # stages that do not fill the network leave it by a domain at least
        stages = np.where(self.whole(stages) & whole, stages, np.minimum(stages, self.domain))
        result = np.zeros(len(table))
        possible = stages <= min(len(each) for each in (self.members, *self.others))
        for stage in np.unique(stages[possible]).tolist():
            rows = np.flatnonzero(stages == stage)
            sizes, inverse = np.unique(size_bytes[rows], return_inverse=True)
            result[rows] = np.minimum.reduce([way.seconds(sizes).max(axis=0) for way in self._ways(stage)])[inverse]
        return result

    def _ways(self, stage: int) -> list[GroupTimes]:
        if stage not in self._known:
            away = [(self.members, each) for each in self.others]
            pairs = [*away, *((b, a) for a, b in away)]
            rows = [np.stack([a[:stage], b[:stage]], axis=1) for a, b in pairs]
            self._known[stage] = [self.collectives.of_groups("send_recv", each) for each in rows]
        return self._known[stage]

    @functools.cached_property
    def _known(self) -> dict[int, list[GroupTimes]]:
        return {}


def crossings_of(topology: Topology, base: Network) -> tuple[Crossing, ...]:
    """The ways that leave every network of a cluster; none where it is one network, or one of them mixes kinds of
    node."""
    home = topology.node_network
    numbers = np.unique(home)
    if len(numbers) < 2 or any(len(np.unique(topology.node_group[home == each])) > 1 for each in numbers):
        return ()
    devices = {each: np.flatnonzero(home[topology.device_node] == each) for each in numbers.tolist()}
    return tuple(_crossing(topology, base, each, devices) for each in numbers.tolist())


def _crossing(topology: Topology, base: Network, network: int, devices: dict[int, NDArray[np.int64]]) -> Crossing:
    home = topology.node_network
    a, b = (each.ravel() for each in np.meshgrid(np.arange(topology.n_nodes), np.arange(topology.n_nodes)))
    leaves = (home[a] == network) & (home[b] != network)
    a, b = a[leaves], b[leaves]
    rate = float(np.maximum(topology.node_rate_bytes_per_s(a, b), topology.node_rate_bytes_per_s(b, a)).max())
    first = np.searchsorted(topology.device_node, np.arange(topology.n_nodes))
    latency = float(topology.latency_s(first[a], first[b]).min())
    level: dict[str, object] = {
        "kind": "fat_tree",
        "name": "apart",
        "levels": [{"nodes": topology.n_nodes, "latency_s": latency}],
    }
    slow = []
    for group in topology.document["nodes"]:
        nics = group["nics"] | {"count": 1, "bandwidth_bytes_per_s": rate, "latency_s": 0.0}
        slow.append(_alike(topology, base, group | {"network": "apart", "nics": nics}, [level]))
    return Crossing(
        collectives=base.collectives,
        domain=base.domain,
        kind=int(topology.node_group[home == network][0]),
        members=devices[network],
        others=tuple(each for number, each in devices.items() if number != network),
        slow=tuple(slow),
        shared=bool(topology.link_is_shared(a, b).all()),
    )


class ApartCosts(TrainingCosts):
    """Costs whose step is the least of the ways to lie on several networks, and to leave each of them."""

    def __init__(self, costs: TrainingCosts, network: KindsNetwork, crossings: tuple[Crossing, ...]) -> None:
        self.__dict__.update(costs.__dict__)
        self.network = _Left(network.collectives, network.domain, network.kinds, crossings)
        self.crossings = crossings

    def step(self, rows: Rows) -> StepCosts:
        """Step time, of which no order of nodes has less, and memory of rows already gathered."""
        inside = super().step(rows)
        leaving = [self._leaving(rows, inside, way) for way in self.crossings]
        table = rows.table
        whole = np.all([way.whole(table.world_size // table.pp) for way in self.crossings], axis=0)
        piped = np.where(
            whole & (table.pp >= len(self.crossings)), self._piped_s(rows, inside, self.crossings, whole=True), np.inf
        )
        longer = np.minimum(piped, np.minimum.reduce([across for _, across in leaving]))
        alone = np.maximum.reduce([np.minimum(*each) for each in leaving])
        longer = np.maximum(np.where(np.isfinite(longer), longer, 0.0), np.where(np.isfinite(alone), alone, 0.0))
        return replace(inside, step_s=inside.step_s + longer)

    def _leaving(self, rows: Rows, inside: StepCosts, way: Crossing) -> tuple[Floats, Floats]:
        """By how many seconds a step is longer if pipelines leave a network of whole stages, and if a group of some
        stage does; infinite where they cannot.

        Groups that cannot fill a network's domains, since their number does not divide its own, leave it in any case.
        """
        table, domain = rows.table, self.network.domain
        stage, domains = table.world_size // table.pp, len(way.members) // domain
        columns = (stage % domain == 0) & (domains % table.pp != 0)
        pipes = self._piped_s(rows, inside, (way,), whole=False)
        pipes = np.where((table.pp > 1) & (columns | (domain % stage == 0)), pipes, 0.0)
        part = dense_partition(table)
        levels = (
            groups_of(part.stride, part.states, domain),
            groups_of(part.stride * part.states, part.replicas, domain),
        )
        known = np.stack([(table.weight_shard == 0) & (table.gradient_shard == 0), np.ones(len(table), bool)])
        forced = np.stack([_may_cross(each, domain) & (domains % _tied(each, domain) != 0) for each in levels])
        possible = np.stack([_may_cross(each, domain) & way.whole(each.stride) for each in levels])
        crossing = self._shared_s(rows, inside, way, together=False)
        together = self._shared_s(rows, inside, way, together=True) if way.shared else crossing

        def moved(extra: list[Floats], which: NDArray[np.bool_]) -> Floats:
            return np.asarray(np.choose((which & known).T @ [1, 2], extra))

        anyway = moved(crossing, forced)
        across = np.where(domain % table.tp != 0, anyway, np.inf)
        for level, each in enumerate(possible):
            alone = np.zeros_like(forced)
            alone[level] = each
            least = np.maximum(moved(crossing, forced | alone), moved(together, alone))
            across = np.where(each, np.minimum(across, least), across)
        whole = (table.pp > 1) & way.whole(stage)
        piped = np.where(whole, self._piped_s(rows, inside, (way,), whole=True) + anyway, np.inf)
        return piped, across + pipes

    def _piped_s(self, rows: Rows, inside: StepCosts, ways: tuple[Crossing, ...], *, whole: bool) -> Floats:
        """By how many seconds a step is longer if pipelines leave some networks."""
        network = self.network
        assert isinstance(network, KindsNetwork)
        costs = copy.copy(self)
        costs.network = _Pipes(network.collectives, network.domain, network.kinds, ways, whole)
        forward, backward = self.stage_seconds(rows)
        load = costs.pipeline_load(rows, forward, forward + backward, inside.slowest)
        time = pipeline_time(rows.table, rows.microbatches, load)
        return np.maximum(time.seconds - inside.pipeline.seconds, 0.0)

    def _shared_s(self, rows: Rows, inside: StepCosts, way: Crossing, *, together: bool) -> list[Floats]:
        """By how many seconds a step is longer if no groups leave a network, those of states, those of replicas, or
        both; with `together` all groups of ranks that lie together do."""
        table, network = rows.table, self.network
        assert isinstance(network, KindsNetwork)
        load = replace(self.stage_load(rows, *self.stage_seconds(rows)), expert_parameters=np.zeros(len(table)))
        shown = inside.sharding.gradients_s + inside.sharding.weights_s
        result = [np.zeros(len(table))]
        for ops in (_OF_STATES, _OF_REPLICAS, (*_OF_STATES, *_OF_REPLICAS)):
            across = _Across(network.collectives, network.domain, network.kinds, self.crossings, ops, way, together)
            made = sharding_time(table, load, rows.microbatches, across, self.device, self.states)
            result.append(np.maximum(made.gradients_s + made.weights_s - shown, 0.0))
        return result
