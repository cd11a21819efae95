"""From a model, a topology and a job to a plan: search and read back, or read back a strategy that is given."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from shardwright.models import ModelGraph
from shardwright.solvers import Status, Stop, relative_gap
from shardwright.topologies import Topology

from ..costs.step import TrainingCosts
from ..errors import InputError, LimitReached, input_errors
from ..plan.base import Beyond, Input, Optimality
from ..plan.training import AS_EVEN, CUT_ALIKE, CUT_FREELY, TrainingPlan
from ..strategy import Strategy
from ..workload.legality import facts, violations
from ..workload.strategy_table import BALANCED, StrategyTable, table_of
from ..workload.training import TrainingJob
from .alternatives import ALTERNATIVES
from .choices import Scope
from .context import Context
from .fitting import Views
from .infeasible import infeasible
from .links import ORDERED, best_placed, bounding_context, own_order, placed, uneven_links, views_of
from .objectives import objective_values, sense, shown
from .readback import read_back
from .robustness import CONSIDERED
from .search import Candidate, Search, evaluated, search
from .space import Space
from .uneven import fitted
from .uneven_space import Meter


def plan_training(
    model: ModelGraph, topology: Topology, job: TrainingJob, *, stop: Stop | None = None, inputs: Iterable[Input] = ()
) -> TrainingPlan:
    """The best strategy that fits by the job's objective, proven the best of the whole space under the cost model.

    Raises InputError when the cost model lacks a figure, Infeasible with the binding constraint and the nearest
    feasible change, and LimitReached when `stop` ends the search before anything feasible was found.
    """
    _refuse_undivided(job, topology.n_devices)
    context = context_of(model, topology, job, inputs)
    space = space_of(context)
    started = time.perf_counter()
    with input_errors():
        found, candidates = _candidates(context, space, stop)
        solution = found.outcome.solution
        meter = Meter(before=solution.work, stop=stop, started=started)
        candidates, least = _with_fitted(context, space, found, candidates, meter)
    if not candidates and solution.status is Status.LIMIT:
        raise LimitReached(f"stopped after {solution.work} strategies without one that fits: allow more (--work)")
    if not candidates:
        raise infeasible(context, space, found)
    best = candidates[0]
    return read_back(
        context,
        candidates,
        strategy=explicit(best.table, context),
        optimality=_optimality(context, space, found, Claim(best.value, least, meter.spent)),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """The best value, what strategies with fitted stages do not go below, and the work that took."""

    value: float
    fitted: float
    work: int


def _with_fitted(
    context: Context, space: Space, found: Search, candidates: list[Candidate], meter: Meter
) -> tuple[list[Candidate], float]:
    """The candidates with those of fitted stages that beat them, and what no such strategy goes below; infinite where
    there is none."""
    best = candidates[0].value if candidates else math.inf
    if len(context.topology.networks) > 1 and "uneven" not in context.job.explore:
        return candidates, math.inf  # their bound takes long, and knows little of cuts
    if not uneven_links(context.topology):
        made = fitted(space, found.nodes, Views(context.costs, context.costs), context.goal, best, meter)
        return sorted([*made.candidates[:ORDERED], *candidates], key=lambda each: each.value), made.bound
    bounding, bound = bounding_context(context).costs, -math.inf
    for costs in (bounding, own_order(context)):  # those best on the fastest links may do without the slow ones
        made = fitted(space, found.nodes, Views(costs, bounding), context.goal, best, meter)
        placed_too = [placed(context, each.table) for each in made.candidates[:ORDERED]]
        candidates = sorted([*placed_too, *candidates], key=lambda each: each.value)
        best, bound = min([best, *(each.value for each in placed_too)]), max(bound, made.bound)
    return candidates, bound


def _candidates(context: Context, space: Space, stop: Stop | None) -> tuple[Search, list[Candidate]]:
    """The search whose bound holds, and the strategies to choose from, best first.

    Where links are uneven the bound is that of links as fast as the fastest. The best strategies on such links, on the
    real ones in the cluster's own order, and on measured ones of average luck are then placed on the real ones.
    """
    keep = CONSIDERED if context.job.robustness_samples else ALTERNATIVES + 1
    if not uneven_links(context.topology):
        found = search(space, context.costs, context.goal, keep=keep, stop=stop)
        return found, [Candidate(each.point.table, context.costs, each.value) for each in found.outcome.best]
    outcomes = [search(space, view.costs, view.goal, keep=keep, stop=stop) for view in views_of(context)]
    found = outcomes[0]
    return found, best_placed(context, [[each.point.table for each in one.outcome.best] for one in outcomes])


def estimate_training(
    model: ModelGraph,
    topology: Topology,
    job: TrainingJob,
    strategy: Strategy,
    *,
    inputs: Iterable[Input] = (),
) -> TrainingPlan:
    """Time and memory of a given strategy, as a plan that considered nothing else.

    Raises InputError with the reason when the strategy is not legal. A strategy that does not fit in memory is
    estimated all the same, and `assumptions` says by how much it exceeds.
    """
    context = context_of(model, topology, job, inputs)
    strategy = with_default_modules(strategy, context.costs)
    broken = violations(strategy, facts(model, job, topology.n_devices))
    if broken:
        raise InputError(f"strategy: {broken[0]}")
    table = table_of([strategy], model.num_layers)
    chosen = placed(context, table) if uneven_links(topology) else Candidate(table, context.costs, 0.0)
    measures = evaluated(chosen.costs, table)
    value = float(objective_values(job.objective, measures, context.goal.rates)[0])
    excess = float(measures.memory_bytes[0]) - context.usable_bytes
    notes = (
        [] if excess <= 0 else [f"does not fit: the fullest device needs {excess / 1e9:.1f} GB more than it may use"]
    )
    optimality = Optimality(
        objective=job.objective,
        sense=sense(job.objective),
        value=shown(job.objective, value),
        bound=shown(job.objective, value),
        gap=0.0,
        status="feasible",
        candidates=1,
        feasible=int(excess <= 0),
        work=1,
    )
    strategy = strategy if strategy.stage_layers else explicit(table, context)
    return read_back(context, [chosen], strategy=strategy, optimality=optimality, notes=notes)


def _refuse_undivided(job: TrainingJob, devices: int) -> None:
    """A held degree of which no value can divide what it must is a mistake, not a search without a result."""
    wholes = dict.fromkeys(("tp", "cp", "pp", "dp_replicate", "dp_shard", "ep", "etp"), ("devices", devices))
    for name, (what, whole) in (wholes | {"mbs": ("sequences of the global batch", job.gbs)}).items():
        held = getattr(job.constraints, name)
        if held and all(whole % value for value in held):
            shown = ", ".join(map(str, held))
            raise InputError(f"constraints.{name} must divide the {whole} {what} but got {shown}")


def with_default_modules(strategy: Strategy, costs: TrainingCosts) -> Strategy:
    """A strategy whose selective recompute names its modules: the attention core unless it says otherwise, as in
    Megatron-LM."""
    if strategy.recompute != "selective" or strategy.recompute_modules:
        return strategy
    return msgspec.structs.replace(strategy, recompute_modules=("core_attention",))


def context_of(model: ModelGraph, topology: Topology, job: TrainingJob, inputs: Iterable[Input] = ()) -> Context:
    """What a plan is made for, with its cost model. Raises InputError when a figure is missing."""
    with input_errors():
        costs = TrainingCosts(model, topology, job)
    return Context(model=model, topology=topology, job=job, inputs=tuple(inputs), costs=costs)


def space_of(context: Context) -> Space:
    """The strategies a job may use."""
    given = facts(context.model, context.job, context.topology.n_devices)
    scores = context.costs.device.coefficients.framework.attention_kernel == "unfused"
    scope = Scope(context.job.constraints, context.job.explore, context.costs.network.domain, scores)
    return Space(context.costs.chain, given, scope)


def explicit(table: StrategyTable, context: Context) -> Strategy:
    """The row with the layers of every virtual stage written out where they are not equal."""
    strategy = table.row(0)
    if int(table.layout[0]) != BALANCED:
        return strategy
    return msgspec.structs.replace(strategy, stage_layers=tuple(context.costs.layers_of(table).tolist()))


def _optimality(context: Context, space: Space, found: Search, claim: Claim) -> Optimality:
    """What is proven: of stages as even as can be, and beside that of stages cut anywhere, or of both together where
    they were explored."""
    solution, objective = found.outcome.solution, context.job.objective
    explored = "uneven" in context.job.explore
    bound = min(solution.bound, claim.value, claim.fitted if explored else math.inf)
    value, bound = shown(objective, claim.value), shown(objective, bound)
    gap = relative_gap(value, bound)
    beyond = None
    if math.isfinite(claim.fitted) and not explored:
        least = shown(objective, min(claim.fitted, solution.bound, claim.value))
        beyond = Beyond(covers=CUT_ALIKE, bound=least, gap=relative_gap(value, least))
    return Optimality(
        objective=objective,
        sense=sense(objective),
        value=value,
        bound=bound,
        gap=gap,
        status="optimal" if gap == 0.0 else "feasible",
        candidates=space.count(found.nodes),
        feasible=found.outcome.feasible,
        work=solution.work + claim.work,
        covers=CUT_FREELY if explored else AS_EVEN,
        beyond=beyond,
    )
