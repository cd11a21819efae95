"""From groups of device ids to the links they get: patterns inside domains, ways between them, who shares what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .algorithms import CHAINS, EXCHANGES, Links
from .coefficients import CollectiveCoefficients
from .document import PcieFabric, SwitchFabric
from .fabrics import group_rate
from .topology import Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

MAX_EXCHANGE_DOMAINS = 256
"""Up to here an all-to-all looks at every pair of domains, beyond at neighbours only."""


@dataclass(frozen=True, slots=True)
class NodeNics:
    """Network constants of every node."""

    step_s: Floats
    message_s: Floats
    efficiency: Floats
    ramp: Floats


@dataclass(frozen=True, slots=True)
class Network:
    """What groups get between their domains, arrays over groups (see `Links`)."""

    bytes_per_s: Floats
    step_s: Floats
    message_s: Floats
    ramp: Floats


def node_nics(topology: Topology, coefficients: CollectiveCoefficients) -> NodeNics:
    """The network constants of every node, by the kind of its NICs."""
    chosen = [coefficients.network(nics.kind if nics else "ethernet")[0] for nics in topology.group_nics]
    columns = np.array([(c.step_s, c.message_s, c.efficiency, c.ramp) for c in chosen])[topology.node_group]
    return NodeNics(*columns.T)


def group_links(topology: Topology, op: str, rows: Ints, nics: NodeNics, *, alone: bool = False) -> Links:
    """Links of groups, one row of device ids each, that all run at the same time, or each `alone`."""
    first = _first_columns(topology.device_domain[rows])
    crowding = np.ones((len(rows), 2), dtype=np.intp) if alone else _crowding(topology, rows, first)
    busy = np.ones(topology.n_domains, dtype=np.intp) if alone else _busy(topology, rows, first)
    shape = (len(rows),)
    ranks, domains, ports = (np.ones(shape) for _ in range(3))
    inside = np.zeros((len(rows), len(Inside._fields)))
    network = Network(np.full(shape, np.inf), np.zeros(shape), np.zeros(shape), np.zeros(shape))
    crossing: list[tuple[Ints, Edges]] = []
    for here in _patterns(topology, rows, first, crowding):
        columns = _domain_columns(first[here[0]])
        inside[here] = _inside(topology, op, rows[here[0]], columns, tuple(crowding[here[0]].tolist()))
        rails = min(len(each) for each in columns)
        ranks[here], domains[here] = rows.shape[1] / len(columns), len(columns)
        if len(columns) > 1:
            leaders = rows[here][:, np.stack([each[:rails] for each in columns])]
            ports[here] = _ports(topology, leaders, busy)
            crossing.append((here, domain_edges(topology, op, leaders, nics)))
    users = np.ones(1 + int(topology.node_network.max() + 1) ** 2) if alone else link_users([e for _, e in crossing])
    for here, edges in crossing:
        _fill(network, here, shared_network(op, edges, Sharing(busy, users), nics))
    memory = np.array([device.memory_bytes_per_s for device in topology.accelerators])
    return Links(
        ranks=ranks,
        domains=domains,
        inside_bytes_per_s=inside[:, 0],
        inside_limit_bytes_per_s=inside[:, 1],
        memory_bytes_per_s=memory[topology.device_accelerator[rows]].min(1),
        hop_s=inside[:, 2],
        span=inside[:, 3].astype(np.intp),
        in_switch=inside[:, 4].astype(bool),
        network_bytes_per_s=network.bytes_per_s,
        network_step_s=network.step_s,
        network_message_s=network.message_s,
        network_ramp=network.ramp,
        ports=ports,
    )


class Inside(NamedTuple):
    """What a group's members in one domain get: a rank's nominal rate, a measured limit to it, extra latency of a hop,
    level of a PCIe tree, and whether the switch can add.
    """

    bytes_per_s: float
    limit_bytes_per_s: float
    hop_s: float
    span: int
    in_switch: bool


def inside_rate(
    topology: Topology, op: str, domain: int, members: tuple[int, ...], crowding: tuple[int, ...] = (1, 1)
) -> Inside:
    """What members of one domain get, `crowding` groups sharing their PCIe switch uplinks and socket link.

    Measured links of the ring over the members limit it in proportion to their nominal rates.
    """
    fabric, size = topology.domain_fabric(domain)
    if fabric is None or len(members) < 2:
        return Inside(np.inf, np.inf, 0.0, 0, False)
    rate = group_rate(fabric, size, members, (crowding[0], crowding[1]))
    exchanges = op in EXCHANGES or op in CHAINS or op == "custom_all_reduce"
    chosen = rate.exchange_bytes_per_s if exchanges else rate.ring_bytes_per_s
    limit = chosen * topology.measured_share(domain, members)
    in_switch = isinstance(fabric, SwitchFabric) and fabric.in_network_reduction
    return Inside(chosen, limit, rate.latency_s * (rate.hops - 1), rate.span, in_switch)


def worst(rates: list[Inside]) -> Inside:
    """The slowest rates, longest hop and highest span among domains; the switch adds only if every switch can."""
    return Inside(
        min(rate.bytes_per_s for rate in rates),
        min(rate.limit_bytes_per_s for rate in rates),
        max(rate.hop_s for rate in rates),
        max(rate.span for rate in rates),
        all(rate.in_switch for rate in rates),
    )


@dataclass(frozen=True, slots=True)
class Edges:
    """The ways groups use between domains, arrays `[group, edge]`, before anything is shared.

    `single` is the sum over rails of what one device sends to its peer, `total` what all NICs of the source domain
    send there; `crossing` numbers the shared link on the way, -1 without one, and `link` is that link's rate.
    """

    source: Ints
    target: Ints
    node: Ints
    single: Floats
    total: Floats
    link: Floats
    crossing: Ints
    step_s: Floats


def domain_edges(topology: Topology, op: str, leaders: Ints, nics: NodeNics) -> Edges:
    """The edges an operation uses between domains; `leaders[group, domain, rail]` are the devices that talk across.

    A ring visits the domains in the order they appear in the group (as NCCL orders nodes by rank), a chain has no
    closing edge, an exchange joins every two domains.
    """
    src, dst = _edges(op, leaders)
    a, b = topology.device_node[src[..., 0]], topology.device_node[dst[..., 0]]
    home, away = topology.node_domain[a], topology.node_domain[b]
    node = topology.node_rate_bytes_per_s(a, b)
    efficiency = 1.0 if topology.has_measured_network else np.minimum(nics.efficiency[a], nics.efficiency[b])
    pairs = topology.node_network[a] * (1 + int(topology.node_network.max())) + topology.node_network[b]
    return Edges(
        source=home,
        target=away,
        node=a,
        single=topology.bandwidth_bytes_per_s(src, dst).sum(-1) * efficiency,
        total=node * topology.domain_nodes[home] * efficiency,
        link=node * efficiency,
        crossing=np.where(topology.link_is_shared(a, b), pairs, -1),
        step_s=topology.latency_s(src[..., 0], dst[..., 0]) + np.maximum(nics.step_s[a], nics.step_s[b]),
    )


@dataclass(frozen=True, slots=True)
class Sharing:
    """Who else is there: groups on the NICs of every domain, edges on every link between networks."""

    busy: Ints
    users: Floats


def link_users(edges: list[Edges]) -> Floats:
    """Edges of all groups on every link between networks, numbered as in `Edges.crossing`, at least one."""
    numbers = np.concatenate([np.zeros(0, dtype=np.intp), *(each.crossing.ravel() for each in edges)])
    return np.maximum(np.bincount(numbers[numbers >= 0], minlength=1), 1.0)


def shared_network(op: str, edges: Edges, sharing: Sharing, nics: NodeNics, rails: float = 1.0) -> Network:
    """What groups get between domains.

    A ring or chain is as fast as its slowest edge. An exchange sends to one domain after the other, so that its
    times add up. The groups of a domain share its NICs, all edges that cross a link between networks share that.
    """
    total = edges.total / np.maximum(sharing.busy[edges.source], sharing.busy[edges.target])
    rates = np.minimum(edges.single * rails, total)
    shared = edges.crossing >= 0
    if shared.any():
        rates[shared] = np.minimum(rates[shared], edges.link[shared] / sharing.users[edges.crossing[shared]])
    if op in EXCHANGES:
        sources = np.unique(edges.source[0]).size
        per_source = rates.reshape(len(rates), sources, -1)
        rate = (per_source.shape[2] / (1 / per_source).sum(2)).min(1)
    else:
        rate = rates.min(1)
    slowest = edges.step_s.argmax(1)[:, None]
    node = np.take_along_axis(edges.node, slowest, axis=1)[:, 0]
    return Network(rate, edges.step_s.max(1), nics.message_s[node], nics.ramp[node])


def _first_columns(domain: Ints) -> Ints:
    """For every element of a row the first column with the same domain."""
    order = np.argsort(domain, axis=1, kind="stable")
    ranked = np.take_along_axis(domain, order, axis=1)
    new = np.ones(domain.shape, dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    start = np.maximum.accumulate(np.where(new, np.arange(domain.shape[1]), 0), axis=1)
    first = np.empty_like(order)
    np.put_along_axis(first, order, np.take_along_axis(order, start, axis=1), axis=1)
    return first


def _domain_columns(first: Ints) -> list[Ints]:
    """Columns of each domain of a row, domains in the order they appear."""
    order = np.argsort(first, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(first[order])) + 1)


def _busy(topology: Topology, rows: Ints, first: Ints) -> Ints:
    """Groups that leave each domain."""
    leads = (first == np.arange(rows.shape[1])) & (first != 0).any(1)[:, None]
    return np.maximum(np.bincount(topology.device_domain[rows][leads], minlength=topology.n_domains), 1)


def _crowding(topology: Topology, rows: Ints, first: Ints) -> Ints:
    """For each group on PCIe trees, how many groups share its busiest switch uplink and its busiest socket link."""
    crowding = np.ones((len(rows), 2), dtype=np.intp)
    fabrics = [topology.domain_fabric(int(d))[0] for d in topology.fabric_domains]
    if not any(isinstance(fabric, PcieFabric) for fabric in fabrics):
        return crowding
    for level in (0, 1):
        places = _pcie_places(topology, level)[rows]
        crossing = [np.unique(row[_leaves(row, group)]) for row, group in zip(places, first, strict=True)]
        counts = np.bincount(np.concatenate([*crossing, np.empty(0, dtype=np.intp)]))
        crowding[:, level] = [counts[each].max(initial=1) for each in crossing]
    return crowding


def _leaves(places: Ints, first: Ints) -> NDArray[np.bool_]:
    """Which members of a row sit in a domain where the group spans more than one place."""
    differs = places != places[first]
    return np.asarray(differs | np.isin(first, first[differs]))


def _pcie_places(topology: Topology, level: int) -> Ints:
    """A number for the switch (level 0) or socket (level 1) of every device, unique over domains."""
    per = np.ones(len(topology.fabric_domains), dtype=np.intp)
    for i, domain in enumerate(topology.fabric_domains):
        fabric, size = topology.domain_fabric(int(domain))
        per[i] = size
        if isinstance(fabric, PcieFabric):
            per[i] = fabric.devices_per_switch * (fabric.switches_per_socket if level else 1)
    place = topology.device_local // per[topology.device_fabric]
    return np.asarray(topology.device_domain * (1 + int(place.max())) + place)


def _inside(topology: Topology, op: str, row: Ints, columns: list[Ints], crowding: tuple[int, ...]) -> Inside:
    """The slowest domain's rates and the longest hops of a group."""
    parts = set()
    for each in columns:
        domain = int(topology.device_domain[row[each[0]]])
        key = (
            domain if topology.measured_devices else int(topology.fabric_domains[topology.device_fabric[row[each[0]]]])
        )
        parts.add((key, tuple(topology.device_local[row[each]].tolist())))
    rates = [inside_rate(topology, op, domain, members, crowding) for domain, members in sorted(parts)]
    return worst(rates)


def _patterns(topology: Topology, rows: Ints, first: Ints, crowding: Ints) -> list[Ints]:
    """Numbers of the rows that look alike: same split over domains, same places in them, same fabrics."""
    place = rows if topology.measured_devices else topology.device_local[rows]
    keys = np.ascontiguousarray(np.hstack([first, place, topology.device_fabric[rows], crowding]))
    alike: dict[bytes, list[int]] = {}
    for number, key in enumerate(keys):
        alike.setdefault(key.tobytes(), []).append(number)
    return [np.array(numbers) for numbers in alike.values()]


def _edges(op: str, leaders: Ints) -> tuple[Ints, Ints]:
    if op in EXCHANGES and leaders.shape[1] <= MAX_EXCHANGE_DOMAINS:
        n = leaders.shape[1]
        source, target = np.nonzero(~np.eye(n, dtype=bool))
        return leaders[:, source], leaders[:, target]
    if op in CHAINS:
        return leaders[:, :-1], leaders[:, 1:]
    return leaders, np.roll(leaders, -1, axis=1)


def _ports(topology: Topology, leaders: Ints, busy: Ints) -> Floats:
    """NICs per domain that a group drives: one per rank or its share, whichever is less."""
    node = topology.device_node[leaders[..., 0]]
    domain = topology.node_domain[node]
    per_domain = topology.node_nics[node] * topology.domain_nodes[domain] / busy[domain]
    per_rank = leaders.shape[2] * np.maximum(1.0, topology.node_nics[node] / topology.node_devices[node])
    return np.asarray(np.minimum(per_domain, per_rank).min(1))


def _fill(network: Network, here: Ints, part: Network) -> None:
    network.bytes_per_s[here] = part.bytes_per_s
    network.step_s[here] = part.step_s
    network.message_s[here] = part.message_s
    network.ramp[here] = part.ramp
