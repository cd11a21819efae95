"""From what a search found to a plan."""

from __future__ import annotations

import numpy as np

from shardwright.solvers.solution import relative_gap

from ..costs.serving.coefficients import coefficients_version
from ..plan.base import Alternative, Input, Optimality, Provenance, Term
from ..plan.serving import (
    EngineSettings,
    Hour,
    Latency,
    Mode,
    NodeLoss,
    PoolPlan,
    Prediction,
    ServingPlan,
    Transfer,
    objective_of,
)
from ..version import VERSION
from ..workload.serving import Targets
from .deployments import Proposal, hand_over, joules_per_token
from .open_loop import Found
from .placement import Placement
from .problem import Problem
from .simulation import Outcome
from .workers import WorkerType


def plan_of(
    problem: Problem,
    found: Found,
    placement: Placement,
    inputs: tuple[Input, ...],
    extras: tuple[NodeLoss | None, tuple[Hour, ...]],
) -> ServingPlan:
    """The plan of a search's winner."""
    job, proposal, outcome = problem.job, found.proposal, found.outcome
    used = proposal.devices
    split = _transfer(problem, proposal)
    rising = job.goal == "throughput"
    return ServingPlan(
        inputs=inputs,
        optimality=Optimality(
            objective=objective_of(job.goal, job.load),
            sense="max" if rising else "min",
            value=found.value,
            bound=found.bound,
            gap=relative_gap(found.value, found.bound),
            status="optimal" if relative_gap(found.value, found.bound) <= 1e-9 else "feasible",
            candidates=found.candidates,
            feasible=found.feasible,
            work=problem.simulated,
        ),
        assumptions=_assumptions(problem, split is not None),
        alternatives=tuple(Alternative(label=label, value=value, why=why) for label, value, why in found.alternatives),
        provenance=Provenance(
            tool_version=VERSION,
            seed=job.seed,
            solver="simulation and integer program",
            libraries={"numpy": np.__version__},
            coefficients={"serving": coefficients_version()},
        ),
        model=problem.model.name,
        cluster=problem.topology.name,
        mode=_mode(proposal, job.mode),
        load=job.load,
        trace=problem.trace.name if problem.trace is not None else "",
        targets=job.targets,
        quantization=problem.setting.quantization,
        speculation=job.speculation,
        engine=job.engine,
        engine_version=job.engine_version,
        pools=_pools(problem, proposal, placement),
        devices_used=used,
        devices_idle=problem.topology.n_devices - used,
        idle=_idle(problem, proposal, found),
        targets_met=outcome.meets(job.targets),
        prediction=prediction_of(proposal, outcome, job.targets, used),
        breakdown=_breakdown(problem, proposal, outcome),
        transfer=split,
        node_loss=extras[0],
        hours=extras[1],
    )


def prediction_of(proposal: Proposal, outcome: Outcome, targets: Targets, used: int) -> Prediction:
    """Latencies and rates of a run."""
    limits = targets.limits()

    def latency(name: str, target: float | None) -> Latency:
        return Latency(
            mean_s=outcome.mean(name),
            p50_s=outcome.percentile(name, 50),
            p90_s=outcome.percentile(name, 90),
            p99_s=outcome.percentile(name, 99),
            at_percentile_s=outcome.percentile(name, targets.percentile),
            target_s=target,
        )

    return Prediction(
        ttft=latency("ttft", limits.get("ttft")),
        tpot=latency("tpot", limits.get("tpot")),
        e2e=latency("e2e", limits.get("e2e")),
        requests=len(outcome.ttft_s),
        requests_per_s=outcome.requests_per_s,
        output_tokens_per_s=outcome.output_tokens_per_s,
        output_tokens_per_s_per_device=outcome.output_tokens_per_s / used,
        goodput_per_s=outcome.goodput_per_s(targets),
        busy_share=outcome.busy_share,
        preemptions=outcome.preemptions,
        usd_per_hour=proposal.usd_per_hour(),
        joules_per_output_token=joules_per_token(proposal, outcome),
    )


def _mode(proposal: Proposal, asked: str) -> Mode:
    if proposal.shared:
        return "shared"
    if asked == "afd":
        return "afd"
    phases = {pool.phase for pool in proposal.pools}
    if phases == {"aggregated"}:
        return "aggregated"
    return "mixed" if "aggregated" in phases else "disaggregated"


def _pools(problem: Problem, proposal: Proposal, placement: Placement) -> tuple[PoolPlan, ...]:
    found: list[PoolPlan] = []
    start = 0
    for pool in proposal.pools:
        devices = placement.devices[start : start + pool.workers]
        start += pool.workers
        worker = pool.worker
        found.append(
            PoolPlan(
                phase=pool.phase,
                accelerator=worker.kind.fabric.accelerator.name,
                layout=worker.layout,
                feed_forward=worker.feed_forward,
                workers=pool.workers,
                devices=devices,
                engine=EngineSettings(
                    policy=worker.schedule.policy,
                    token_budget=worker.schedule.token_budget,
                    max_sequences=worker.schedule.max_sequences,
                    memory_fraction=problem.setting.engine.memory_fraction,
                ),
                memory=_memory(worker),
                capacity_bytes=worker.kind.fabric.accelerator.memory_bytes,
                cache_tokens=int(min(worker.schedule.cache_tokens, 1e15)),
                requests_per_s=pool.rate,
            )
        )
    return tuple(found)


def _memory(worker: WorkerType) -> dict[str, int]:
    memory = worker.memory
    return {
        "weights": int(memory.weight_bytes),
        "workspace": int(memory.workspace_bytes),
        "kv cache": int(max(memory.cache_bytes, 0.0)),
    }


def _idle(problem: Problem, proposal: Proposal, found: Found) -> str:
    idle = problem.topology.n_devices - proposal.devices
    if idle <= 0:
        return ""
    if found.candidates == 1:
        return f"{idle} devices: the deployment given leaves them out"
    most = problem.job.most_devices
    if most is not None and proposal.devices >= most:
        return f"{idle} devices: the job may use {most} at most"
    smallest = min(worker.devices for worker in problem.types)
    if problem.job.goal != "throughput":
        return f"{idle} devices: the objective is met best without them"
    if idle < smallest:
        return f"{idle} devices: the smallest worker whose weights and longest request fit needs {smallest}"
    return f"{idle} devices: no further worker on them carries more within the targets (of {found.candidates} tried)"


def _transfer(problem: Problem, proposal: Proposal) -> Transfer | None:
    if not proposal.split or proposal.shared:
        return None
    prefill = next(pool.worker for pool in proposal.pools if pool.phase == "prefill")
    decode = next(pool.worker for pool in proposal.pools if pool.phase == "decode")
    over = hand_over(problem.setting, problem.topology, prefill, decode)
    return Transfer(
        bytes_per_token=over.bytes_per_token,
        bytes_per_s=over.bytes_per_s,
        seconds_per_request=over.seconds,
        exposed_s_per_request=over.exposed_s,
    )


def _breakdown(problem: Problem, proposal: Proposal, outcome: Outcome) -> tuple[Term, ...]:
    """Where the time of a typical decode step of the largest generating pool goes, and of one prompt."""
    lengths = problem.setting.lengths
    generating = [pool for pool in proposal.pools if pool.phase != "prefill"]
    pool = max(generating, key=lambda each: each.workers * each.worker.devices)
    cost = pool.worker.cost
    inside = outcome.requests_per_s * outcome.mean("tpot") * max(lengths.osl - 1, 0)
    held = max(1.0, inside / sum(each.workers for each in generating))
    own = -(-held // cost.groups) * cost.tokens_checked / cost.pp
    none = np.float64(0)
    attention = float(cost.tables(np.float64(own), none, none))
    experts = float(cost.tables(none, np.float64(held * cost.tokens_checked / cost.pp), none))
    head = float(cost.tables(none, none, np.float64(held)))
    read = float(cost.read_seconds(-(-held // cost.groups), lengths.context))
    step = float(cost.decode_seconds(held, lengths.context))
    first = next((each for each in proposal.pools if each.phase != "decode"), pool)
    from .steady import prefill_seconds

    prompt = float(prefill_seconds(first.worker.cost, first.worker.schedule, lengths))
    batch = f"{held:.0f} sequences of {lengths.context:.0f} tokens"
    return (
        Term(name="products and reductions", value=attention, unit="s", why=f"dense kernels of a step of {batch}"),
        Term(name="experts and exchanges", value=experts, unit="s", why="routed feed-forward over the stage"),
        Term(name="attention", value=read, unit="s", why="reading the cached tokens of every sequence"),
        Term(name="vocabulary", value=head, unit="s", why="one token per sequence"),
        Term(
            name="host",
            value=max(step - attention - experts - read - head, 0.0),
            unit="s",
            why="scheduling and sampling",
        ),
        Term(name="decode step", value=step, unit="s", why=f"{batch} in one worker"),
        Term(name="prompt alone", value=prompt, unit="s", why=f"{lengths.isl - lengths.cached:.0f} tokens computed"),
    )


def _assumptions(problem: Problem, split: bool) -> tuple[str, ...]:
    load = problem.job.load
    notes = list(problem.assumptions)
    if problem.trace is None:
        law = "Poisson arrivals" if load.rate_per_s is not None else "a new request as soon as one ends"
        notes.append(f"load: {law}, lengths as given, seed {problem.job.seed}")
    else:
        notes.append("the trace is replayed as it is; the search before it uses its mean rate and lengths")
    if problem.job.speculation is not None:
        draft = problem.job.speculation
        notes.append(
            f"speculation: {draft.draft_tokens} draft tokens a step, each kept with probability {draft.acceptance:g}, "
            f"each at {100 * draft.draft_cost:g} % of a step's time"
        )
    if split:
        notes.append("the KV cache is handed over layer by layer while the prompt is computed")
    notes.append("requests go to the worker with the fewest in hand")
    return tuple(dict.fromkeys(notes))
