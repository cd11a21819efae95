"""What one copy of a model carries within latency targets: the unit a fleet is bought in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph
from shardwright.topologies import Topology

from ..costs.serving.memory import ReplicaMemory, replica_memory
from ..costs.serving.shapes import ReplicaShapes, replica_shapes
from ..errors import Infeasible, InputError, input_errors
from ..workload.serving import LengthBin, Load, ServingJob
from ..workload.serving_layout import Layout, LayoutConstraints
from .capacity import capacity
from .deployments import Link, handed_over
from .planning import only
from .pools import Phase
from .problem import Problem, problem_of
from .runs import MOST_REQUESTS, TURNS
from .schedule import schedule_of
from .simulation import Deployment, Outcome, simulate
from .size_rates import Sizes, decode_rates, expected_rates, prefill_rates
from .steady import Lengths, steady_state
from .turns import Pool
from .workers import WorkerType, decode_rate, expected_rate, prefill_rate

PHASES: tuple[Phase, ...] = ("aggregated", "prefill", "decode")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests of about one prompt and one output length; `link` is what takes their caches from a prefill worker to a
    decode worker, None where that costs nothing."""

    isl: int
    osl: int
    link: Link | None = None


def replica_throughput(
    model: ModelGraph, topology: Topology, layout: Layout, bucket: Bucket, job: ServingJob, *, exact: bool = False
) -> float:
    """Requests per second of one bucket that one aggregated copy carries: `replica_rates` of one."""
    return float(replica_rates(model, topology, layout, (bucket,), job, exact=exact)[0])


def replica_rates(
    model: ModelGraph,
    topology: Topology,
    layout: Layout,
    buckets: Sequence[Bucket],
    job: ServingJob,
    *,
    phase: Phase = "aggregated",
    exact: bool = False,
) -> NDArray[np.float64]:
    """Requests per second of every bucket alone that one copy carries within the job's targets; 0 where it cannot.

    The copy stands on the topology's first kind of device that holds it, in a `phase`: prefill answers for TTFT alone,
    decode for TPOT. The means of the closed form by default, under a millisecond a bucket; `exact` simulates Poisson
    arrivals, queueing and percentiles included, some hundred milliseconds a bucket. Of the job its targets, engine,
    quantization, speculation and seed count, not its load. A copy that does not fit in memory, or whose cache does not
    hold one request of a bucket, carries none of it.

    Raises InputError when the layout does not fit the model, a request its context, or the phase is not known.
    """
    return Copies(model, topology, job, (layout,)).rates(layout, buckets, phase=phase, exact=exact)


class Copies:
    """The copies of a model on a topology's first kind of device, one per layout, whose rates are asked for again and
    again; what their costs have in common is made once.

    They answer for the job's targets, engine, quantization, speculation and seed, not for its load.
    """

    def __init__(self, model: ModelGraph, topology: Topology, job: ServingJob, layouts: Sequence[Layout]) -> None:
        self.model, self.topology, self.layouts = model, topology, tuple(layouts)
        self.job = msgspec.structs.replace(job, load=_alone(Bucket(1, 1)), mode="auto", constraints=_just(layouts))
        self._shapes: dict[Layout, ReplicaShapes] = {}

    @cached_property
    def _problem(self) -> Problem | None:
        """Every layout that fits in memory; None where none does."""
        with input_errors(), suppress(Infeasible):
            return problem_of(self.model, self.topology, self.job, None)
        return None

    @cached_property
    def _workers(self) -> dict[Layout, WorkerType]:
        first: dict[Layout, WorkerType] = {}
        for worker in self._problem.types if self._problem else ():
            first.setdefault(worker.layout, worker)
        return first

    def rates(
        self, layout: Layout, buckets: Sequence[Bucket], *, phase: Phase = "aggregated", exact: bool = False
    ) -> NDArray[np.float64]:
        """`replica_rates` of one of the layouts."""
        if phase not in PHASES:
            raise InputError(f"phase must be one of {', '.join(PHASES)} but got {phase!r}")
        rates = np.zeros(len(buckets))
        if not buckets:
            return rates
        self._check_context(max(buckets, key=lambda each: each.isl + each.osl))
        worker = self._workers.get(layout)
        if self._problem is None or worker is None:
            return rates
        if layout not in self._shapes:
            self._shapes[layout] = replica_shapes(self.model, layout, self._problem.setting.quantization)
        shapes = self._shapes[layout]
        if not exact:
            return _closed_rates(self._problem, worker, shapes, buckets, phase)
        for place, bucket in enumerate(buckets):
            own, copy = _for_bucket(self._problem, worker, shapes, bucket)
            handing = bucket.link is not None and phase == "prefill"
            rates[place] = _handing_rate(own, copy, bucket) if handing else _simulated_rate(own, copy, phase)
        return rates

    def _check_context(self, most: Bucket) -> None:
        longest = self.model.max_positions
        if longest is not None and most.isl + most.osl > longest:
            raise InputError(
                f"a request of {most.isl} prompt and {most.osl} output tokens is longer than the {longest} "
                f"of the context of {self.model.name}"
            )


def _closed_rates(
    problem: Problem, worker: WorkerType, shapes: ReplicaShapes, buckets: Sequence[Bucket], phase: Phase
) -> NDArray[np.float64]:
    """The means of the closed form, all buckets at once; they share all but the cache that their contexts leave."""
    setting, targets = problem.setting, problem.job.targets
    isl, osl = (np.array([[getattr(each, name)] for each in buckets], dtype=float) for name in ("isl", "osl"))
    room = {
        context: _memory(problem, worker, shapes, context).cache_tokens for context in {*(isl + osl / 2)[:, 0].tolist()}
    }
    cache = np.array([[room[context]] for context in (isl + osl / 2)[:, 0].tolist()])
    sizes = Sizes(isl, osl, cache)
    if phase == "aggregated":
        rates = expected_rates(worker, sizes, targets)
    elif phase == "decode":
        rates = decode_rates(worker, sizes, targets)
    else:
        rates = prefill_rates(setting, worker, sizes, targets, [each.link for each in buckets])
    return np.where((cache / worker.layout.attn_dp >= isl + osl)[:, 0], rates, 0.0)


@dataclass(frozen=True, slots=True)
class PoolUse:
    """Workers of one phase and layout, and the topology on whose first kind of device they stand."""

    phase: Phase
    topology: Topology
    layout: Layout
    workers: int = 1


def replica_outcome(
    model: ModelGraph, pools: Sequence[PoolUse], job: ServingJob, link: Link | None = None, least: int = 2000
) -> Outcome | None:
    """What the requests of the job's load see of one copy: a worker, or a prefill and a decode pool joined by a link.

    At least `least` requests arrive at random times at the job's rate, of the job's lengths, mixed. None where a pool's
    layout does not fit in memory.
    """
    parts: dict[str, tuple[Pool, ...]] = {}
    start = token = 0.0
    requests = least
    for use in pools:
        try:
            problem = problem_of(model, use.topology, only(job, use.layout), None)
        except Infeasible:
            return None
        worker = next((each for each in problem.types if each.layout == use.layout), None)
        if worker is None:
            return None
        requests = max(requests, _long_enough(problem, worker, job.load.rate_per_s or 0.0, least))
        parts[use.phase] = (Pool(worker.table, worker.schedule, use.workers),)
        if use.phase == "prefill" and link is not None:
            over = handed_over(problem.setting, worker, link)
            start, token = problem.setting.engine.hand_over_s, over.exposed_s / max(problem.setting.lengths.isl, 1.0)
    deployment = Deployment(transfer_start_s=start, transfer_token_s=token, **parts)
    return simulate(deployment, job.load.sample(requests))


def _long_enough(problem: Problem, worker: WorkerType, rate: float, least: int) -> int:
    """Requests of a run that lasts several times as long as one of them, so that what is in hand settles."""
    alone = steady_state(worker.cost, worker.schedule, problem.setting.lengths, np.ones(1))
    seconds = float(alone.e2e_s(problem.setting.lengths.osl)[0])
    return int(min(max(least, TURNS * rate * seconds), MOST_REQUESTS))


def _alone(bucket: Bucket) -> Load:
    return Load(lengths=(LengthBin(isl=bucket.isl, osl=bucket.osl),), rate_per_s=1.0)


def _just(layouts: Sequence[Layout]) -> LayoutConstraints:
    """The tightest constraints that leave all of some layouts legal."""
    names = LayoutConstraints.__struct_fields__
    return LayoutConstraints(**{name: tuple(sorted({getattr(each, name) for each in layouts})) for name in names})


def _for_bucket(
    problem: Problem, worker: WorkerType, shapes: ReplicaShapes, bucket: Bucket
) -> tuple[Problem, WorkerType]:
    """The same copy under requests of a bucket: step times stay, the cache holds other sequences."""
    setting = replace(problem.setting, lengths=Lengths(bucket.isl, bucket.osl), longest=bucket.isl + bucket.osl)
    memory = _memory(problem, worker, shapes, setting.lengths.context)
    schedule = schedule_of(setting.engine, memory.cache_tokens, worker.layout.attn_dp)
    job = only(msgspec.structs.replace(problem.job, load=_alone(bucket)), worker.layout)
    return replace(problem, setting=setting, job=job), replace(worker, memory=memory, schedule=schedule)


def _memory(problem: Problem, worker: WorkerType, shapes: ReplicaShapes, context: float) -> ReplicaMemory:
    use = (problem.setting.quantization, problem.setting.engine, context)
    return replica_memory(problem.model, shapes, worker.kind.fabric, worker.layout, use)


def _handing_rate(problem: Problem, worker: WorkerType, bucket: Bucket) -> float:
    """What a prefill worker carries whose first tokens wait for the caches behind them, and no more than its link."""
    assert bucket.link is not None
    over = handed_over(problem.setting, worker, bucket.link)
    targets = problem.job.targets
    if targets.ttft_s is not None:
        left = targets.ttft_s - over.exposed_s - problem.setting.engine.hand_over_s
        if left <= 0:
            return 0.0
        job = msgspec.structs.replace(problem.job, targets=msgspec.structs.replace(targets, ttft_s=left))
        problem = replace(problem, job=job)
    sent = over.bytes_per_token * bucket.isl
    most = bucket.link.bytes_per_s / sent if sent else np.inf
    return min(_simulated_rate(problem, worker, "prefill"), most)


def _simulated_rate(problem: Problem, worker: WorkerType, phase: Phase) -> float:
    if worker.schedule.cache_tokens / worker.layout.attn_dp < problem.setting.longest:
        return 0.0
    lengths, targets = problem.setting.lengths, problem.job.targets
    expected = {"aggregated": expected_rate, "prefill": prefill_rate, "decode": decode_rate}[phase]
    return capacity(problem, worker, phase, expected(worker, lengths, targets))
