"""Collective times on the groups a rank order gives: uniform ones for searches, real ones for a given mapping.

Ranks count up along tp, then cp, dp_shard, dp_replicate, pp (experts: etp, ep, edp, pp), and domains (one scale-up
fabric each) hold consecutive ranks. A group of an axis is therefore `ranks_per_domain` × `domains`, and every other
group of the same axis that touches the domain shares its NICs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shardwright.topologies import Collectives

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

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry; a group of one takes none. Bytes as nccl-tests counts them."""
        alone = (groups.degree <= 1) | (size_bytes <= 0)
        if bool(np.all(alone)):
            return np.zeros(np.broadcast_shapes(np.shape(size_bytes), np.shape(groups.degree)))
        times = self.collectives.uniform_seconds(
            op, np.maximum(size_bytes, 1.0), groups.ranks_per_domain, groups.domains, groups.sharing
        )
        return np.where(alone, 0.0, times)

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
    """Collective times on the real groups of one strategy; `devices[r]` plays rank r. Every group of an axis runs at
    the same time and the slowest counts."""

    devices: NDArray[np.int64]

    def seconds(self, op: str, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of a collective for every entry, over all groups of that stride and degree."""
        size, stride, degree = np.broadcast_arrays(size_bytes, groups.stride, groups.degree)
        times = np.zeros(size.shape)
        for i in np.flatnonzero((degree > 1) & (size > 0)):
            times[i] = self.collectives.seconds(op, float(size[i]), self.members(int(stride[i]), int(degree[i])))
        return times

    def ring_step_seconds(self, size_bytes: Floats, groups: Groups) -> Floats:
        """Seconds of one step around the rings of every group."""
        times = np.zeros(np.shape(size_bytes))
        for i in np.flatnonzero(groups.degree > 1):
            ring = self.members(int(groups.stride[i]), int(groups.degree[i]))
            pairs = np.stack([ring, np.roll(ring, -1, axis=1)], axis=2).reshape(-1, 2)
            times[i] = self.collectives.seconds("send_recv", float(size_bytes[i]), pairs)
        return times

    def hop_seconds(self, table: StrategyTable, size_bytes: Floats) -> tuple[Floats, Floats]:
        """Seconds over the slowest boundary, and of the pipeline that takes longest over all its boundaries."""
        slowest, total = np.zeros(len(table)), np.zeros(len(table))
        for i in np.flatnonzero(table.pp > 1):
            pp = int(table.pp[i])
            ranks = self.devices.reshape(pp, -1)
            hops = np.stack(
                [
                    self.collectives.group_seconds(
                        "send_recv", float(size_bytes[i]), np.stack([ranks[stage], ranks[stage + 1]], axis=1)
                    )
                    for stage in range(pp - 1)
                ]
            )
            slowest[i], total[i] = hops.max(), hops.sum(axis=0).max()
        return slowest, total

    def members(self, stride: int, degree: int) -> NDArray[np.int64]:
        """Devices of every group of `degree` ranks `stride` apart, one group a row."""
        grid = self.devices.reshape(-1, degree, stride)
        return np.moveaxis(grid, 1, 2).reshape(-1, degree)
