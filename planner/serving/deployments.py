"""Deployments a search weighs: pools of workers, what joins them, and what they draw and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shardwright.models.quantities import kv_bytes_per_token
from shardwright.topologies import Topology

from .pools import Phase
from .simulation import Deployment, Outcome
from .steady import batched_prefill_seconds
from .turns import Pool
from .workers import Setting, WorkerType

# Share of its TDP a device draws while it waits, and while steps run: vLLM and TensorRT-LLM on H100 draw 70 to 90 % of
# TDP in prefill and 50 to 70 % in decode (Splitwise, ISCA 2024, figure 8); an idle one near 12 %.
IDLE_POWER, BUSY_POWER = 0.15, 0.7


@dataclass(frozen=True)
class PoolOf:
    """Equal workers of one phase; `rate` is what one carries within the targets."""

    worker: WorkerType
    phase: Phase
    workers: int
    rate: float = 0.0


@dataclass(frozen=True)
class Proposal:
    """Pools of a deployment, in the order of their phases, and what the closed form expects of the objective."""

    pools: tuple[PoolOf, ...]
    expected: float = 0.0
    bound: float = 0.0
    shared: bool = False

    @property
    def devices(self) -> int:
        """Devices of all pools; phases that share their devices count once."""
        counted = [pool for pool in self.pools if not (self.shared and pool.phase == "decode")]
        return sum(pool.workers * pool.worker.devices for pool in counted)

    @property
    def split(self) -> bool:
        """Whether prefill and decode are pools of their own."""
        return any(pool.phase == "decode" for pool in self.pools)

    @property
    def weighted(self) -> bool:
        """Whether requests are shared by what the workers of each pool carry, which must be known."""
        return all(pool.rate > 0 for pool in self.pools)

    def shares(self) -> list[float]:
        """The part of all requests that comes to each pool: by what its workers carry, the lower of what the prefill
        and the decode pools do; equal for all workers of a phase where that is not known."""
        carried = [pool.workers * (pool.rate if self.weighted else 1.0) for pool in self.pools]
        sums = {"aggregated": 0.0, "prefill": 0.0, "decode": 0.0}
        for pool, rate in zip(self.pools, carried, strict=True):
            sums[pool.phase] += rate
        paired = min(sums["prefill"], sums["decode"])
        whole = sums["aggregated"] + paired
        part = {phase: (each if phase == "aggregated" else paired) / whole for phase, each in sums.items()}
        return [part[pool.phase] * rate / sums[pool.phase] for pool, rate in zip(self.pools, carried, strict=True)]

    def label(self) -> str:
        """Every pool in words: `4 × tp2 on H100-SXM5-80GB`."""
        words = {"aggregated": "", "prefill": "prefill ", "decode": "decode "}
        return " + ".join(f"{pool.workers} × {words[pool.phase]}{pool.worker.label()}" for pool in self.pools)

    def usd_per_hour(self) -> float | None:
        """Price of the devices used; None when one has no known price."""
        total = 0.0
        for pool in self.pools:
            price = pool.worker.kind.usd_per_hour
            if price is None:
                return None
            total += 0.0 if self.shared and pool.phase == "decode" else price * pool.workers * pool.worker.devices
        return total

    def watts(self, busy_share: float) -> float | None:
        """Power of the devices used; None when one has no known TDP."""
        total = 0.0
        for pool in self.pools:
            tdp = pool.worker.kind.tdp_watts
            if tdp is None:
                return None
            share = IDLE_POWER + (BUSY_POWER - IDLE_POWER) * busy_share
            total += 0.0 if self.shared and pool.phase == "decode" else tdp * share * pool.workers * pool.worker.devices
        return total


@dataclass(frozen=True, slots=True)
class HandOver:
    """The KV cache on its way from a prefill to a decode worker.

    Layer by layer it hides under the prefill that makes it; what shows is at least one layer's share.
    """

    bytes_per_token: float
    bytes_per_s: float
    seconds: float
    exposed_s: float


@dataclass(frozen=True, slots=True)
class Link:
    """What joins a prefill worker to a decode worker."""

    bytes_per_s: float
    latency_s: float


def hand_over(setting: Setting, topology: Topology, prefill: WorkerType, decode: WorkerType) -> HandOver:
    """The transfer of one prompt: between domains if the cluster has several, over as many links as both ends have."""
    links = min(prefill.devices, decode.devices)
    first = int((topology.device_accelerator == prefill.kind.index).argmax())
    others = topology.device_accelerator == decode.kind.index
    far = others & (topology.device_domain != topology.device_domain[first])
    near = others.copy()
    near[first] = False
    target = int(far.argmax()) if far.any() else int(near.argmax()) if near.any() else first
    rate = float(topology.bandwidth_bytes_per_s(first, target)) * links if target != first else 1e15
    latency = float(topology.latency_s(first, target)) if target != first else 0.0
    return handed_over(setting, prefill, Link(rate, latency))


def handed_over(setting: Setting, prefill: WorkerType, link: Link) -> HandOver:
    """The transfer of one prompt over a link, its layers on their way while the next ones are computed."""
    size = kv_bytes_per_token(setting.model, dtype_bytes=setting.quantization.cache_bytes)
    rate = link.bytes_per_s
    seconds = link.latency_s + size * setting.lengths.isl / rate
    layers = max(setting.model.num_layers, 1)
    hidden = batched_prefill_seconds(prefill.cost, prefill.schedule, setting.lengths) * (1 - 1 / layers)
    return HandOver(size, rate, seconds, max(seconds / layers, seconds - hidden))


def deployment(proposal: Proposal, setting: Setting, topology: Topology) -> Deployment:
    """The proposal as the simulator runs it."""
    parts: dict[Phase, list[Pool]] = {"aggregated": [], "prefill": [], "decode": []}
    for pool, share in zip(proposal.pools, proposal.shares(), strict=True):
        weight = share if proposal.weighted else 0.0
        if pool.workers:
            parts[pool.phase].append(Pool(pool.worker.table, pool.worker.schedule, pool.workers, weight))
    start = token = 0.0
    if proposal.split and not proposal.shared:
        over = hand_over(setting, topology, _first(proposal.pools, "prefill"), _first(proposal.pools, "decode"))
        token = over.exposed_s / max(setting.lengths.isl, 1.0)
        start = setting.engine.hand_over_s
    return Deployment(
        aggregated=tuple(parts["aggregated"]),
        prefill=tuple(parts["prefill"]),
        decode=tuple(parts["decode"]),
        transfer_start_s=start,
        transfer_token_s=token,
    )


def joules_per_token(proposal: Proposal, outcome: Outcome) -> float | None:
    """Energy per output token over a run."""
    watts = proposal.watts(outcome.busy_share)
    return None if watts is None else watts / outcome.output_tokens_per_s


def _first(pools: Sequence[PoolOf], phase: Phase) -> WorkerType:
    return next(pool.worker for pool in pools if pool.phase == phase)
