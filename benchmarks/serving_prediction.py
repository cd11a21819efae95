"""What the serving cost model and simulator say of a measured case."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from benchmarks.serving_cases import TRTLLM_REQUESTS, Case
from benchmarks.serving_models import SkippedError
from shardwright.planner.costs.serving.coefficients import Engine, Kernels, engine, host_factor, kernels
from shardwright.planner.costs.serving.memory import replica_memory
from shardwright.planner.costs.serving.shapes import ReplicaShapes, replica_shapes
from shardwright.planner.costs.serving.step import Machine, StepCost, cost_of_shapes
from shardwright.planner.errors import InputError
from shardwright.planner.serving.schedule import Schedule, StepTable, schedule_of
from shardwright.planner.serving.simulation import Deployment, Outcome, Pool, simulate
from shardwright.planner.workload.serving import Load, Trace
from shardwright.planner.workload.serving_layout import Layout

MAX_REQUESTS = 20_000
OPEN_REQUESTS = 512


def machine_of(case: Case) -> Machine:
    """Kernels and engine generation that a case ran with."""
    device = case.fabric.accelerator
    found, _ = kernels(device.architecture, device.name)
    known, _ = engine(case.engine, case.engine_version)
    return Machine(case.fabric, found, known, host_factor(device.name))


def costs_key(case: Case, machine: Machine) -> tuple[bytes, ...]:
    """Everything of a machine that a prediction of the case depends on, as bytes to compare."""
    found: list[bytes] = []
    for layout in case.layouts:
        cost, schedule = _pool(case, machine, layout)
        for name in StepCost.__dataclass_fields__:
            value = getattr(cost, name)
            found.append(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
        found.append(repr(schedule).encode())
    return tuple(found)


def predict(case: Case, machine: Machine | None = None, effort: float = 1.0) -> dict[str, float]:
    """Mean TTFT and TPOT in seconds and output tokens per second and GPU, of those that the case measured.

    `effort` is the share of the usual number of requests that is simulated. Raises SkippedError when the copy does not
    fit its devices or its layout does not fit the model.
    """
    machine = machine or machine_of(case)
    pools = [_pool(case, machine, layout) for layout in case.layouts]
    if case.load_kind == "static_batch":
        outcome, last = _static(case, pools[0])
        found = {"ttft": last, "tpot": outcome.mean("tpot"), "throughput": outcome.output_tokens_per_s / case.devices}
        return {metric: found[metric] for metric in case.metrics}
    outcome = _run(case, pools, effort)
    found = {
        "ttft": outcome.mean("ttft"),
        "tpot": outcome.mean("tpot"),
        "throughput": outcome.output_tokens_per_s / case.devices,
    }
    if case.load_kind == "concurrency" and "conc*osl/(ttft" in case.derived:
        turn = found["ttft"] + found["tpot"] * (case.osl - 1)
        found["throughput"] = (case.load or 1) * case.osl / turn / case.devices
    return {metric: found[metric] for metric in case.metrics}


@lru_cache(maxsize=4096)
def _shapes(case_key: tuple[object, ...]) -> ReplicaShapes:
    model, layout, quantization = case_key
    return replica_shapes(model, layout, quantization)  # type: ignore[arg-type]  # the key is typed by its only caller


def _pool(case: Case, machine: Machine, layout: Layout) -> tuple[StepCost, Schedule]:
    try:
        shapes = _shapes((case.model, layout, case.quantization))
    except InputError as error:
        raise SkippedError(f"layout does not fit the model ({str(error).split(' of ')[0]})") from error
    cost = cost_of_shapes(shapes, machine, layout, case.quantization)
    context = case.isl + case.osl / 2
    memory = replica_memory(case.model, shapes, case.fabric, layout, (case.quantization, machine.engine, context))
    if memory.cache_tokens < case.isl + case.osl:
        raise SkippedError("does not fit in memory by the model")
    return cost, schedule_of(machine.engine, memory.cache_tokens, layout.attn_dp)


def _static(case: Case, pool: tuple[StepCost, Schedule]) -> tuple[Outcome, float]:
    """One batch sent at once and run to its end; TTFT is when the whole batch has its first token."""
    cost, schedule = pool
    batch = max(1, int(case.load or 1))
    schedule = replace(schedule, max_sequences=max(batch, 1))
    deployment = Deployment(aggregated=(Pool(StepTable(cost), schedule, 1),))
    outcome = simulate(deployment, _same(batch, case))
    return outcome, float(outcome.ttft_s.max())


def _run(case: Case, pools: list[tuple[StepCost, Schedule]], effort: float) -> Outcome:
    if len(pools) == 1:
        cost, schedule = pools[0]
        deployment = Deployment(aggregated=(Pool(StepTable(cost), schedule, case.workers[0]),))
    else:
        (prefill, first), (decode, second) = pools
        deployment = Deployment(
            prefill=(Pool(StepTable(prefill), first, case.workers[0]),),
            decode=(Pool(StepTable(decode), second, case.workers[1]),),
            transfer_start_s=2e-3,
        )
    if case.load_kind in ("concurrency", "num_requests"):
        concurrency = max(1, int(case.load or 1))
        rounds = max(2, round(effort * min(10, MAX_REQUESTS // concurrency)))
        load = Load(isl=round(case.isl), osl=round(case.osl), concurrency=concurrency, spread=case.spread)
        trace = load.sample(concurrency * rounds)
        if not case.spread:
            trace = _varied(trace, JITTER)
        return simulate(deployment, trace, concurrency)
    if case.load_kind == "qps":
        if case.load is None:
            raise SkippedError("load not given")
        if np.isinf(case.load) or case.load >= 500:
            return simulate(deployment, _same(OPEN_REQUESTS, case))
        load = Load(isl=round(case.isl), osl=round(case.osl), rate_per_s=case.load)
        return simulate(deployment, load.sample(max(64, round(effort * OPEN_REQUESTS))))
    if case.load_kind in ("max_throughput", "poisson SLO"):
        return simulate(deployment, _offline(case, effort))
    raise SkippedError(f"load kind {case.load_kind} is not known")


JITTER = 0.02


def _varied(trace: Trace, jitter: float) -> Trace:
    """The same trace with output lengths that differ a little, so that requests do not end in lockstep for ever."""
    factor = np.random.default_rng(0).uniform(1 - jitter, 1 + jitter, len(trace))
    output = np.maximum(1, np.rint(trace.output_tokens * factor)).astype(np.int64)
    return Trace(trace.arrival_s, trace.prompt_tokens, output, trace.cached_tokens)


def _offline(case: Case, effort: float) -> Trace:
    """All requests at once: as many as the page sends, or enough for a steady run."""
    requests = TRTLLM_REQUESTS.get((round(case.isl), round(case.osl)), 3000)
    requests = round(effort * min(requests, 8192)) * (case.workers[0] if case.variable else 1)
    if not case.variable:
        return _same(requests, case)
    rng = np.random.default_rng(0)
    isl = np.clip(rng.lognormal(-0.32, 0.8, requests) * case.isl, 8, 1024)
    osl = np.clip(rng.lognormal(-0.25, 0.7, requests) * case.osl, 8, 1024)
    return _trace(np.rint(isl * case.isl / isl.mean()), np.rint(osl * case.osl / osl.mean()))


def _same(requests: int, case: Case) -> Trace:
    return _trace(np.full(requests, round(case.isl)), np.full(requests, max(1, round(case.osl))))


def _trace(isl: np.ndarray, osl: np.ndarray) -> Trace:
    count = len(isl)
    return Trace(
        arrival_s=np.zeros(count),
        prompt_tokens=np.maximum(1, isl).astype(np.int64),
        output_tokens=np.maximum(1, osl).astype(np.int64),
        cached_tokens=np.zeros(count, dtype=np.int64),
    )


__all__ = ["Engine", "Kernels", "machine_of", "predict"]
