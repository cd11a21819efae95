"""The terminal view of a serving plan: what to run, what requests will see, why, and how sure that is."""

from __future__ import annotations

from ..plan.serving import Latency, PoolPlan, ServingPlan
from .text import console, count, counted, duration, gigabytes, percent, table

_MAX_WORKERS_SHOWN = 8


def print_serving_plan(plan: ServingPlan, seconds: float | None = None) -> None:
    """Print the whole view; `seconds` is how long planning took."""
    out = console()
    out.print(f"{plan.model} on {plan.cluster}", style="bold", markup=False)
    out.print(f"{_load(plan)}, {plan.quantization.name}, {plan.engine}\n", markup=False)
    out.print(f"Deployment {_deployment(plan)}", markup=False)
    out.print(f"Devices    {_devices(plan)}", markup=False)
    out.print(f"Rates      {_rates(plan)}", markup=False)
    out.print(f"Targets    {_targets(plan)}", markup=False)
    out.print(f"Proof      {_proof(plan, seconds)}", markup=False)
    if plan.node_loss is not None:
        out.print(f"Node lost  {_loss(plan)}", markup=False)
    out.print("")
    out.print(_latencies(plan))
    out.print(_pools(plan))
    out.print(_memory(plan))
    rows = ((term.name, duration(term.value), term.why) for term in plan.breakdown if term.value)
    out.print(table("Where a step's time goes", ("part", "time", "why"), rows))
    if plan.hours:
        out.print(_hours(plan))
    if plan.alternatives:
        rows_ = ((each.label, f"{each.value:.4g}", each.why) for each in plan.alternatives)
        out.print(table("Next best", ("deployment", "value", "why"), rows_))
    if plan.assumptions:
        out.print("Assumed", style="bold", markup=False)
        for line in plan.assumptions:
            out.print(f"- {line}", markup=False)


def _load(plan: ServingPlan) -> str:
    load = plan.load
    lengths = f"{load.mean_isl:.0f} prompt and {load.mean_osl:.0f} output tokens"
    if plan.trace:
        return f"trace {plan.trace}, {lengths} on average"
    if load.concurrency is not None:
        return f"{count(load.concurrency)} requests in hand of {lengths}"
    return f"{load.rate_per_s:g} requests/s of {lengths}"


def _deployment(plan: ServingPlan) -> str:
    return f"{plan.mode}: " + " + ".join(f"{pool.workers} × {_words(pool)}" for pool in plan.pools)


def _words(pool: PoolPlan) -> str:
    phase = "" if pool.phase == "aggregated" else f"{pool.phase} "
    apart = f" with feed-forward {pool.feed_forward.label()}" if pool.feed_forward else ""
    return f"{phase}{pool.layout.label()}{apart} on {pool.accelerator}"


def _devices(plan: ServingPlan) -> str:
    price = plan.prediction.usd_per_hour
    cost = f", {price:.2f} USD/h" if price is not None else ""
    idle = f"; idle: {plan.idle}" if plan.idle else ""
    return f"{plan.devices_used} of {plan.devices_used + plan.devices_idle}{cost}{idle}"


def _rates(plan: ServingPlan) -> str:
    seen = plan.prediction
    energy = seen.joules_per_output_token
    joules = f", {energy:.3g} J per output token" if energy is not None else ""
    return (
        f"{seen.requests_per_s:.3g} requests/s, {seen.output_tokens_per_s:.0f} output tokens/s "
        f"({seen.output_tokens_per_s_per_device:.0f} per device), busy {percent(seen.busy_share, 0)}{joules}"
    )


def _targets(plan: ServingPlan) -> str:
    limits = plan.targets.limits()
    if not limits:
        return "none given"
    words = ", ".join(f"{name} {duration(limit)}" for name, limit in limits.items())
    return f"{'met' if plan.targets_met else 'MISSED'}: {words} at p{plan.targets.percentile:g}"


def _proof(plan: ServingPlan, seconds: float | None) -> str:
    best = plan.optimality
    took = f" in {duration(seconds)}" if seconds is not None else ""
    if best.candidates == 1:
        return "one given deployment, nothing searched"
    claim = "nothing better exists under the model"
    if best.status != "optimal":
        claim = f"{best.objective}: {best.value:.4g}, no plan beyond {best.bound:.4g} ({percent(best.gap)})"
    return f"{claim}; {count(best.candidates)} candidates, {count(best.work)} simulations{took}"


def _loss(plan: ServingPlan) -> str:
    loss = plan.node_loss
    assert loss is not None
    left = f"{loss.node} takes {counted(loss.workers_lost, 'worker')} on {counted(loss.devices_lost, 'device')}"
    if loss.requests_per_s == 0:
        return f"{left}; {loss.why}"
    seen = f"ttft {duration(loss.ttft_s)}, tpot {duration(loss.tpot_s)}, {loss.requests_per_s:.3g} requests/s"
    return f"{left}; {'targets still met' if loss.targets_met else 'targets missed'}: {seen}"


def _latencies(plan: ServingPlan) -> object:
    seen = plan.prediction

    def row(name: str, latency: Latency) -> tuple[str, ...]:
        values = (latency.mean_s, latency.p50_s, latency.p90_s, latency.p99_s)
        target = duration(latency.target_s) if latency.target_s is not None else "-"
        return (name, *(duration(value) for value in values), target)

    rows = [row("TTFT", seen.ttft), row("TPOT", seen.tpot), row("end to end", seen.e2e)]
    return table(f"Latencies of {count(seen.requests)} requests", ("", "mean", "p50", "p90", "p99", "target"), rows)


def _pools(plan: ServingPlan) -> object:
    rows = []
    for pool in plan.pools:
        shown = [f"{min(each)}-{max(each)}" for each in pool.devices[:_MAX_WORKERS_SHOWN]]
        more = ["…"] if len(pool.devices) > _MAX_WORKERS_SHOWN else []
        settings = f"{pool.engine.policy}, {pool.engine.token_budget} tokens, {pool.engine.max_sequences} sequences"
        rows.append((_words(pool), str(pool.workers), count(pool.cache_tokens), settings, " ".join(shown + more)))
    return table("Pools", ("worker", "workers", "cache tokens", "schedule", "what"), rows)


def _memory(plan: ServingPlan) -> object:
    rows = []
    for pool in plan.pools:
        for name, size in pool.memory.items():
            share = percent(size / pool.capacity_bytes, 0)
            rows.append((f"{pool.phase} {name}", gigabytes(size), f"{share} of {gigabytes(pool.capacity_bytes)}"))
    return table("Memory of one device", ("category", "bytes", "why"), rows)


def _hours(plan: ServingPlan) -> object:
    rows = (
        (each.hour, f"{each.rate_per_s:.3g}", " + ".join(map(str, each.workers)), str(each.devices))
        for each in plan.hours
    )
    return table("Workers by hour", ("hour", "requests/s", "workers", "devices"), rows)
