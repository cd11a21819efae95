"""The terminal view of a layer placement: how much flows, who holds what, and what a cap on latency costs."""

from __future__ import annotations

from itertools import groupby

from ..plan.fleet import FleetPlan
from ..plan.layer_placement import Chains, LayerPlacement
from .text import console, duration, percent, table


def print_layer_placement(plan: FleetPlan, placement: LayerPlacement, seconds: float | None = None) -> None:
    """Print both placements; `seconds` is how long planning took."""
    out = console()
    best = plan.optimality
    took = f", {duration(seconds)}" if seconds is not None else ""
    proof = "proven optimal" if best.status == "optimal" else f"proven within {percent(best.gap)}"
    nodes = len(placement.best.holders)
    out.print(f"{best.value:.2f} tokens/s through {placement.layers} layers on {nodes} nodes", style="bold")
    out.print(f"{proof} (no placement passes more than {best.bound:.2f}{took})\n", markup=False)
    columns = ("placement", "tokens/s", "bound", "stages", "at most", "latency of a token", "nodes used", "simulated")
    rows = [_summary("most flow", placement.best), _summary("capped", placement.capped)]
    out.print(table("Placements", columns, rows))
    out.print(table("Layers, most flow", _COLUMNS, _holders(placement.best)))
    if placement.capped.holders != placement.best.holders:
        out.print(table("Layers, capped", _COLUMNS, _holders(placement.capped)))
    idle = [holder.node for holder in placement.best.holders if holder.start == holder.end]
    if idle:
        out.print(f"Without layers: nodes {', '.join(idle)}\n", markup=False)
    out.print("Assumed", style="bold", markup=False)
    for line in plan.assumptions:
        out.print(f"- {line}", markup=False)


_COLUMNS = ("layers", "nodes", "tokens/s of them", "flow", "what")


def _summary(name: str, chains: Chains) -> tuple[str, ...]:
    used = sum(holder.end > holder.start for holder in chains.holders)
    seen = chains.simulated
    limit = "-" if chains.stage_limit is None else str(chains.stage_limit)
    return (
        name,
        f"{chains.tokens_per_s:.2f}",
        f"{chains.bound_tokens_per_s:.2f}",
        str(chains.stages),
        limit,
        duration(chains.token_s),
        str(used),
        "-" if seen is None else f"{seen.tokens_per_s:.2f} at {duration(seen.token_s)}, {seen.in_flight:.0f} in flight",
    )


def _holders(chains: Chains) -> list[tuple[str, ...]]:
    """One row per interval of layers: nodes that hold it, what they pass together, and what flows through them."""
    held = sorted((h for h in chains.holders if h.end > h.start), key=lambda h: (h.start, h.end, h.node))
    rows: list[tuple[str, ...]] = []
    for (start, end), group in groupby(held, key=lambda h: (h.start, h.end)):
        members = list(group)
        names = {holder.node for holder in members}
        flow = sum(stream.tokens_per_s for stream in chains.streams if stream.target in names)
        what = ", ".join(f"{holder.node} ({holder.type})" for holder in members)
        passes = sum(holder.tokens_per_s for holder in members)
        rows.append((f"{start}-{end - 1}", str(len(members)), f"{passes:.1f}", f"{flow:.1f}", what))
    return rows
