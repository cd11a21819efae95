"""What the serving cost model and simulator say of a measured case."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_cases import TRTLLM_REQUESTS, Case
from benchmarks.serving_models import SkippedError
from shardwright.planner.costs.serving.coefficients import Engine, engine, host_factor, kernels
from shardwright.planner.costs.serving.formulas import StepCost
from shardwright.planner.costs.serving.memory import replica_memory
from shardwright.planner.costs.serving.shapes import ReplicaShapes, replica_shapes
from shardwright.planner.costs.serving.step import Machine, cost_of_shapes
from shardwright.planner.errors import InputError
from shardwright.planner.serving.schedule import Schedule, StepTable, schedule_of
from shardwright.planner.serving.simulation import Deployment, Outcome, simulate
from shardwright.planner.serving.turns import Pool
from shardwright.planner.workload.serving import Load, Trace
from shardwright.planner.workload.serving_layout import Layout

MAX_REQUESTS = 20_000
OPEN_REQUESTS = 512
MLPERF_SEQUENCES = 2048


Run = Callable[[Deployment, Trace, int | None], Outcome]


def machine_of(case: Case) -> Machine:
    """Kernels and engine generation that a case ran with."""
    device = case.fabric.accelerator
    found, _ = kernels(device.architecture, device.name)
    known, _ = engine(case.engine, case.engine_version)
    return Machine(case.fabric, found, known, host_factor(device.name))


def predict(case: Case, machine: Machine | None = None, run: Run = simulate) -> dict[str, float]:
    """Mean TTFT and TPOT in seconds and output tokens per second and GPU, of those that the case measured.

    `run` simulates. Raises SkippedError when the copy does not fit its devices or its layout does not fit the model.
    """
    machine = machine or machine_of(case)
    pools = [(cost_of(case, machine, layout), _schedule(case, machine, layout)) for layout in case.layouts]
    if case.load_kind == "static_batch":
        outcome, last = _static(case, pools[0], run)
        found = {"ttft": last, "tpot": outcome.mean("tpot"), "throughput": outcome.output_tokens_per_s / case.devices}
        return {metric: found[metric] for metric in case.metrics}
    outcome = _outcome(case, pools, machine.engine, run)
    ttft, tpot = (outcome.percentile(each, 50) if case.median else outcome.mean(each) for each in ("ttft", "tpot"))
    found = {
        "ttft": ttft,
        "tpot": _token_mean(outcome) if case.token_mean else tpot,
        "throughput": outcome.output_tokens_per_s / case.devices,
    }
    if closed_by_latency(case):
        found["throughput"] = throughput_of_latency(case, found["ttft"], found["tpot"])
    return {metric: found[metric] for metric in case.metrics}


def closed_by_latency(case: Case) -> bool:
    """Whether the source's throughput is computed from its latencies, as a closed loop has it."""
    return case.load_kind == "concurrency" and "conc*osl/(ttft" in case.derived


def throughput_of_latency(case: Case, ttft_s: float, tpot_s: float) -> float:
    """Tokens per second and device by Little's law."""
    return (case.load or 1) * case.osl / (ttft_s + tpot_s * (case.osl - 1)) / case.devices


def _token_mean(outcome: Outcome) -> float:
    steps = np.maximum(outcome.output_tokens - 1, 0)
    return float(np.nansum(outcome.tpot_s * steps) / max(steps.sum(), 1))


@lru_cache(maxsize=4096)
def _shapes(case_key: tuple[object, ...]) -> ReplicaShapes:
    model, layout, quantization = case_key
    return replica_shapes(model, layout, quantization)  # type: ignore[arg-type]  # the key is typed by its only caller


def cost_of(case: Case, machine: Machine, layout: Layout) -> StepCost:
    """The cost of a step of one copy in one layout of a case. Raises SkippedError when it does not fit the model."""
    return cost_of_shapes(_shapes_of(case, layout), machine, layout, case.quantization)


def _shapes_of(case: Case, layout: Layout) -> ReplicaShapes:
    try:
        return _shapes((case.model, layout, case.quantization))
    except InputError as error:
        raise SkippedError(f"layout does not fit the model ({str(error).split(' of ')[0]})") from error


def _schedule(case: Case, machine: Machine, layout: Layout) -> Schedule:
    use = (case.quantization, machine.engine, case.isl + case.osl / 2)
    memory = replica_memory(case.model, _shapes_of(case, layout), case.fabric, layout, use)
    if memory.cache_tokens < case.isl + case.osl:
        raise SkippedError("does not fit in memory by the model")
    schedule = schedule_of(machine.engine, memory.cache_tokens, layout.attn_dp)
    if "MLPerf" in case.source:  # submissions raise the limits of a step to what the cache holds
        schedule = replace(schedule, max_sequences=max(schedule.max_sequences, MLPERF_SEQUENCES))
    return schedule


def _static(case: Case, pool: tuple[StepCost, Schedule], run: Run) -> tuple[Outcome, float]:
    """One batch sent at once and run to its end; TTFT is when the whole batch has its first token."""
    cost, schedule = pool
    batch = max(1, int(case.load or 1))
    schedule = replace(schedule, max_sequences=max(batch, 1))
    deployment = Deployment(aggregated=(Pool(StepTable(cost), schedule, 1),))
    outcome = run(deployment, _same(batch, case), None)
    return outcome, float(outcome.ttft_s.max())


def _outcome(case: Case, pools: list[tuple[StepCost, Schedule]], engine: Engine, run: Run) -> Outcome:
    if len(pools) == 1:
        cost, schedule = pools[0]
        deployment = Deployment(aggregated=(Pool(StepTable(cost), schedule, case.workers[0]),))
    else:
        (prefill, first), (decode, second) = pools
        deployment = Deployment(
            prefill=(Pool(StepTable(prefill), first, case.workers[0]),),
            decode=(Pool(StepTable(decode), second, case.workers[1]),),
            transfer_start_s=engine.hand_over_s,
        )
    if case.load_kind in ("concurrency", "num_requests"):
        concurrency = max(1, int(case.load or 1))
        rounds = max(2, min(10, MAX_REQUESTS // concurrency))
        load = Load(isl=round(case.isl), osl=round(case.osl), concurrency=concurrency, spread=case.spread)
        trace = load.sample(concurrency * rounds)
        if not case.spread:
            trace = _varied(trace, min(0.5, APART[engine.policy] * concurrency / max(case.osl, 1.0)))
        return run(deployment, trace, concurrency)
    if case.load_kind == "qps":
        if case.load is None:
            raise SkippedError("load not given")
        return run(deployment, _open(case, case.load), None)
    if case.load_kind in ("max_throughput", "poisson SLO"):
        return run(deployment, _offline(case), None)
    raise SkippedError(f"load kind {case.load_kind} is not known")


def _open(case: Case, rate: float) -> Trace:
    """Poisson arrivals at a rate, all at once at one that no engine follows."""
    number = case.requests or OPEN_REQUESTS
    trace = Load(isl=round(case.isl), osl=round(case.osl), rate_per_s=min(rate, 1e6)).sample(number)
    at_once = np.isinf(rate) or rate >= 500
    sizes = _lengths(case, number, SHAREGPT_SPREAD) if case.variable else (trace.prompt_tokens, trace.output_tokens)
    return Trace(np.zeros(number) if at_once else trace.arrival_s, *sizes, trace.cached_tokens)


# Output tokens that requests of equal lengths come apart, for every one in hand. Prefills first bring them together
# again: none of those that wait decodes before all are in.
APART = {"mixed": 0.5, "prefill-first": 0.1}
# Spread of the logarithms of prompt and output lengths: of the instruction sets of MLPerf, and of ShareGPT.
DATASET_SPREAD, SHAREGPT_SPREAD = (0.8, 0.7), (1.1, 1.0)


def _varied(trace: Trace, jitter: float) -> Trace:
    """The same trace with output lengths that differ: requests of equal lengths would end in lockstep for ever.

    Clients, front ends and the batches that requests fall into drive them apart, the further the more are in hand; a
    few stay together.
    """
    factor = np.random.default_rng(0).uniform(1 - jitter, 1 + jitter, len(trace))
    output = np.maximum(1, np.rint(trace.output_tokens * factor)).astype(np.int64)
    return Trace(trace.arrival_s, trace.prompt_tokens, output, trace.cached_tokens)


def _offline(case: Case) -> Trace:
    """All requests at once: as many as the page sends, or enough for a steady run."""
    requests = TRTLLM_REQUESTS.get((round(case.isl), round(case.osl)), 3000)
    requests = min(requests, 8192) * (case.workers[0] if case.variable else 1)
    if not case.variable:
        return _same(requests, case)
    return _trace(*_lengths(case, requests, DATASET_SPREAD))


def _lengths(case: Case, requests: int, spread: tuple[float, float]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Lengths of a data set: log-normal within what it was filtered to, with the means of the case."""
    rng = np.random.default_rng(0)
    found = []
    for mean, sigma in zip((case.isl, case.osl), spread, strict=True):
        drawn = np.clip(rng.lognormal(-(sigma**2) / 2, sigma, requests) * mean, 8, 1024)
        found.append(np.maximum(1, np.rint(drawn * mean / drawn.mean())).astype(np.int64))
    return found[0], found[1]


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
