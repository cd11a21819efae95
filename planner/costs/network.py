"""Collective times on the groups a rank order gives: uniform ones for searches, real ones for a given mapping.

Ranks count up along tp, then cp, dp_shard, dp_replicate, pp (experts: etp, ep, edp, pp), and domains (one scale-up
fabric each) hold consecutive ranks. A group of an axis is therefore `ranks_per_domain` × `domains`, and every other
group of the same axis that touches the domain shares its NICs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Collectives, GroupTimes

from ..workload.strategy_table import Ints, StrategyTable, row_codes
from .keys import Floats


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of one axis: ranks `stride` apart, `ranks_per_domain` of them inside a domain, over `domains`, with
    `sharing` groups on each domain's NICs."""

    stride: NDArray[np.int64]
    ranks_per_domain: NDArray[np.int64]
    domains: NDArray[np.int64]
    sharing: NDArray[np.int64]

    @property
    def degree(self) -> NDArray[np.int64]:
        """Members of a group."""
        return self.ranks_per_domain * self.domains


def groups_of(stride: NDArray[np.int64], degree: NDArray[np.int64], domain: int) -> Groups:
    """Groups of `degree` ranks `stride` apart, over domains of `domain` consecutive ranks.

    Where a degree does not fill whole domains the members per domain are rounded down, so the group spans more.
    """
    fit = np.clip(domain // stride, 1, None)
    inside = np.minimum(degree, fit)
    inside = np.where(degree % inside == 0, inside, np.gcd(degree, inside))
    return Groups(stride, inside, degree // inside, np.maximum(domain // inside, 1))


@dataclass(frozen=True)
class Network:
    """Collective times over uniform groups of one cluster, whose domains join `domain` devices."""

    collectives: Collectives
    domain: int

    @property
    def domains(self) -> int:
        """Scale-up domains of the cluster."""
        return self.collectives.topology.n_domains

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry; a group of one takes none. Bytes as nccl-tests counts them."""
        alone = (groups.degree <= 1) | (size_bytes <= 0)
        if bool(np.all(alone)):
            return np.zeros(np.broadcast_shapes(np.shape(size_bytes), np.shape(groups.degree)))
        times = self.collectives.uniform_seconds(
            op, np.maximum(size_bytes, 1.0), groups.ranks_per_domain, groups.domains, groups.sharing
        )
        return np.where(alone, 0.0, times)

    def crowded_seconds(self, op: str, size_bytes: Floats, groups: Groups, slowdown: float) -> Floats:
        """`seconds`, and `slowdown` times as long where groups span domains."""
        return self.seconds(op, size_bytes, groups) * np.where(groups.domains > 1, slowdown, 1.0)

    def ring_step_seconds(self, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of one step in which every member of a group sends to the next: the slowest pair's."""
        near, far = self.pair_seconds(size_bytes, groups.sharing)
        return np.where(groups.degree > 1, np.where(groups.domains > 1, far, near), 0.0)

    def pair_seconds(self, size_bytes: Floats, sharing: Ints) -> tuple[Floats, Floats]:
        """Seconds from one device to another inside a domain, and to another domain while `sharing` devices of the
        domain send. In a domain of one device every neighbour is in another."""
        ones = np.ones(np.shape(size_bytes), np.int64)
        far = self.seconds("send_recv", size_bytes, Groups(ones, ones, 2 * ones, np.broadcast_to(sharing, ones.shape)))
        if self.domain == 1:
            return far, far
        return self.seconds("send_recv", size_bytes, Groups(ones, 2 * ones, ones, ones)), far

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds to send `size_bytes` to the next pipeline rank: over the slowest boundary, over all in a row."""
        stride = table.world_size // table.pp
        inside = np.clip(self.domain // stride, 1, table.pp)
        crossings = -(-table.pp // inside) - 1
        first, inverse = row_codes((size_bytes.astype(np.int64), np.minimum(stride, self.domain)))
        pairs = self.pair_seconds(size_bytes[first], np.minimum(stride[first], self.domain))
        near, far = pairs[0][inverse], pairs[1][inverse]
        slowest = np.where(crossings > 0, far, near)
        total = crossings * far + (table.pp - 1 - crossings) * near
        alone = table.pp == 1
        return np.where(alone, 0.0, slowest), np.where(alone, 0.0, total)


@dataclass(frozen=True)
class MappedNetwork(Network):
    """Collective times on the real groups; `devices[r]` plays rank r. Every group of an axis runs at the same time and
    the slowest counts."""

    devices: NDArray[np.int64]
    times: dict[tuple[str, int, int], GroupTimes] = field(default_factory=dict, repr=False, compare=False)

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry, over all groups of that stride and degree."""
        return self._slowest(op, size_bytes, groups)

    def ring_step_seconds(self, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of one step around the rings of every group."""
        return self._slowest("ring", size_bytes, groups)

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds over the slowest boundary, and of the pipeline that takes longest over all its boundaries."""
        slowest, total = np.zeros(len(table)), np.zeros(len(table))
        for pp in np.unique(table.pp[table.pp > 1]).tolist():
            rows = np.flatnonzero(table.pp == pp)
            sizes, inverse = np.unique(size_bytes[rows], return_inverse=True)
            boundaries = [self._of("hop", pp, stage) for stage in range(pp - 1)]
            kinds = np.stack([boundary.kind for boundary in boundaries])
            ways = np.unique(kinds, axis=1)
            seconds = [boundary.seconds(sizes) for boundary in boundaries]
            hops = np.stack([each[way] for each, way in zip(seconds, ways, strict=True)])
            slowest[rows] = hops.max(axis=(0, 1))[inverse]
            total[rows] = hops.sum(axis=0).max(axis=0)[inverse]
        return slowest, total

    def members(self, stride: int, degree: int) -> NDArray[np.int64]:
        """Devices of every group of `degree` ranks `stride` apart, one group a row."""
        grid = self.devices.reshape(-1, degree, stride)
        return np.moveaxis(grid, 1, 2).reshape(-1, degree)

    def _slowest(self, what: str, size_bytes: Floats, groups: Groups) -> Floats:
        size, stride, degree = np.broadcast_arrays(size_bytes, groups.stride, groups.degree)
        times = np.zeros(size.shape)
        busy = np.flatnonzero((degree > 1) & (size > 0))
        first, inverse = row_codes((stride[busy], degree[busy]))
        for i, row in enumerate(busy[first].tolist()):
            rows = busy[inverse == i]
            sizes, which = np.unique(size[rows], return_inverse=True)
            times[rows] = self._of(what, int(stride[row]), int(degree[row])).seconds(sizes).max(axis=0)[which]
        return times

    def _of(self, what: str, first: int, second: int) -> GroupTimes:
        """Groups of an operation by stride and degree, steps around their rings, or one boundary of pp stages."""
        key = (what, first, second)
        if key not in self.times:
            op = "send_recv" if what in ("ring", "hop") else what
            if what == "hop":
                ranks = self.devices.reshape(first, -1)
                rows = np.stack([ranks[second], ranks[second + 1]], axis=1)
            else:
                rows = self.members(first, second)
            if what == "ring":
                rows = np.stack([rows, np.roll(rows, -1, axis=1)], axis=2).reshape(-1, 2)
            self.times[key] = self.collectives.of_groups(op, rows)
        return self.times[key]
