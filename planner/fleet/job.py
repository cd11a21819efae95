"""From a fleet job to a plan: which replicas there are, the best fleet of them, and what changes would be worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from shardwright.models import ModelGraph
from shardwright.solvers import Gap, Work

from .. import inputs
from ..errors import Infeasible, LimitReached
from ..plan.base import Alternative, Input
from ..plan.fleet import FleetPlan, Rental, Replica, ShadowPrice
from ..workload.fleet import FleetJob, ServedModel
from .candidates import Candidate, covered_by_tables, measured_candidates, offered_types, request_classes
from .columns import Columns, Known, check_context
from .explain import unit_of
from .found import Found
from .infeasible import unservable
from .mixing import Settled, settled
from .offers import assemble, name_of, undominated
from .planning import best_found, plan_assembled, routed
from .problem import FleetProblem
from .split import simulated_split
from .supply import Supply
from .what_if import WhatIf, changed

FEW_CLASSES = 12
MOST_SPLITS, FEW_SPLITS = 1500, 96
CLOSE = Gap(1e-3) | Work(2_000)
"""Near enough to the best fleet to say which replicas matter."""
MILLISECOND = 1e-3
UNSEEN = "throughputs are those at which mean latencies meet the targets; percentiles were not simulated"
MEANS = "throughputs of a class alone are those at which mean latencies meet the targets"


@dataclass(frozen=True, slots=True)
class _Ready:
    """A job with its replicas made."""

    job: FleetJob
    supply: Supply
    sources: tuple[Input, ...]

    @property
    def columns(self) -> Columns:
        """The replicas."""
        return self.supply.columns


def plan_fleet(job: FleetJob, sources: tuple[Input, ...] = (), what_if: Sequence[WhatIf] = ()) -> FleetPlan:
    """The cheapest fleet for a job, or the one that carries most under its budget, with its proof.

    Replicas come from the job's measured tables and, for what they do not cover, from the serving cost model.
    `what_if` adds what the best fleet would be after each change. Raises Infeasible naming the constraint that binds,
    InputError for what is not known or contradicts itself.
    """
    ready, problem, plan = _planned(job, sources)
    assert plan.rental is not None
    worth = plan.rental.shadow_prices + _milliseconds(ready, problem, plan.rental.replicas)
    rental = msgspec.structs.replace(plan.rental, shadow_prices=worth)
    others = tuple(_alternative(job, each) for each in what_if)
    return msgspec.structs.replace(plan, rental=rental, alternatives=plan.alternatives + others)


def _planned(job: FleetJob, sources: tuple[Input, ...]) -> tuple[_Ready, FleetProblem, FleetPlan]:
    """The plan whose replicas keep the targets alone and, where they are simulated, under the mix routed to them."""
    ready = _ready(job, sources)
    columns = ready.columns

    def rent(made: list[Candidate], alone: bool) -> tuple[list[Candidate], Rental, float]:
        while True:
            if alone:
                made = _simulated(job, columns, made)
            rental, found = routed(job, assemble(job, columns.classes, undominated(job, made)))
            more = ready.supply.grow(_known(job, found))
            if not more:
                return made, rental, found.bound
            made = made + more

    if job.simulate is False or all(each.source != "cost model" for each in columns.made):
        ended = Settled(list(columns.made), [], (), None)
    else:
        ended = settled(columns, rent)
    outsides = [each for each in (ready.supply.outside, ended.outside) if each is not None]
    best = max if job.objective == "throughput" else min
    problem = assemble(job, columns.classes, undominated(job, ended.made))
    notes = ready.supply.notes() + _how(job, columns) + ended.notes
    plan = plan_assembled(job, problem, ready.sources, notes, outside=best(outsides) if outsides else None)
    assert plan.rental is not None
    latencies = ended.latencies or [None] * len(plan.rental.replicas)
    pairs = zip(plan.rental.replicas, latencies, strict=True)
    replicas = tuple(msgspec.structs.replace(replica, latencies=each) for replica, each in pairs)
    rental = msgspec.structs.replace(plan.rental, replicas=replicas)
    return ready, problem, msgspec.structs.replace(plan, rental=rental)


def _ready(job: FleetJob, sources: tuple[Input, ...]) -> _Ready:
    """Everything that can be part of a better fleet by the cost model's means."""
    models, records = _models(job)
    classes = request_classes(job)
    columns = Columns(job, classes, models, measured_candidates(job, classes))
    columns.serve_all()
    gpus = offered_types(job)
    with np.errstate(divide="ignore"):
        served = 1 / columns.prices()
    reason = unservable(classes, served, gpus)
    if reason is not None:
        raise Infeasible(columns.too_large(served) or reason)

    def value_of(made: list[Candidate]) -> Known:
        try:
            return _known(job, best_found(job, assemble(job, classes, undominated(job, made)), CLOSE))
        except Infeasible:
            return Known(np.inf)

    supply = Supply(columns, _most_splits(job) if job.disaggregated else 0)
    supply.begin(value_of)
    return _Ready(job, supply, sources + records)


def _known(job: FleetJob, found: Found) -> Known:
    """What a fleet must beat to be better than the one found."""
    if job.objective == "throughput":
        return Known(job.budget_usd_per_hour or 0.0, 1, found.multiple, np.inf)
    hours = [multiple for _, multiple in job.hours] or [1.0]
    return Known(found.value, len(hours), sum(hours), max(hours))


def _most_splits(job: FleetJob) -> int:
    """Split replicas to plan with; the program of losses, hours and budgets takes longer for each."""
    plain = not (job.failures.any or job.hours or job.current or job.objective == "throughput")
    return MOST_SPLITS if plain else FEW_SPLITS


def _models(job: FleetJob) -> tuple[dict[str, ModelGraph], tuple[Input, ...]]:
    """The model graphs that the cost model needs, checked against the requests."""
    tables = covered_by_tables(job)
    gpus = offered_types(job)
    models, records = {}, []
    for served in job.models:
        if all((served.model, gpu) in tables for gpu in gpus):
            continue
        graph, record = inputs.load_model(served.model)
        check_context(served, graph)
        models[served.model] = graph
        records.append(record)
    return models, tuple(records)


def _how(job: FleetJob, columns: Columns) -> tuple[str, ...]:
    """Where throughputs come from, as a note."""
    if all(each.source != "cost model" for each in columns.made):
        return ()
    if not _alone(job, columns):
        return (UNSEEN if job.simulate is False else MEANS,)
    percentile = ", ".join(sorted({f"{each.targets.percentile:g}" for each in job.models}))
    return (f"throughputs of the replicas rented hold the targets at percentile {percentile} in simulation",)


def _alone(job: FleetJob, columns: Columns) -> bool:
    """Whether replicas are simulated under each class alone."""
    return job.simulate if job.simulate is not None else len(columns.classes) <= FEW_CLASSES


def _simulated(job: FleetJob, columns: Columns, made: list[Candidate]) -> list[Candidate]:
    """The replicas, those of the best fleet with simulated throughputs, until no other would be rented."""
    if not _alone(job, columns):
        return made
    served = {each.model: each for each in job.models}
    while True:
        problem = assemble(job, columns.classes, undominated(job, made))
        counts = best_found(job, problem).counts.max(0)
        rented = {problem.prices[at].replica for at in np.flatnonzero(counts)}
        names = {(problem.replicas[kind].model, problem.replicas[kind].name) for kind in rented}
        changes = {
            at: _exact(columns, served[each.model], each)
            for at, each in enumerate(made)
            if each.source == "cost model" and (each.model, name_of(each)) in names
        }
        if not changes:
            return made
        made = [changes.get(at, each) for at, each in enumerate(made)]


def _exact(columns: Columns, served: ServedModel, candidate: Candidate) -> Candidate:
    """The same replica with simulated throughputs."""
    if len(candidate.pools) > 1:
        return simulated_split(columns, served, candidate)
    (pool,) = candidate.pools
    assert pool.degrees is not None
    return columns.candidate(served, pool.gpu, candidate.format, pool.degrees, exact=True)


def _milliseconds(ready: _Ready, problem: FleetProblem, rented: Sequence[Replica]) -> tuple[ShadowPrice, ...]:
    """What a millisecond more of each latency target saves, by the relaxation of the replicas rented."""
    job, columns = ready.job, ready.columns
    rates = np.array([each.rate_per_s for each in columns.classes])
    out = []
    for served in job.models:
        for name, limit in served.targets.limits().items():
            looser = msgspec.structs.replace(
                served, targets=msgspec.structs.replace(served.targets, **{f"{name}_s": limit + MILLISECOND})
            )
            costs = [_relaxed_cost(ready.columns, problem, rented, each) for each in (served, looser)]
            if not np.isfinite(costs).all():
                continue
            saved = float(rates @ (costs[0] - costs[1]))
            what = f"1 ms more of {name.upper()}" + (f" for {served.model}" if len(job.models) > 1 else "")
            out.append(
                ShadowPrice(
                    what=what,
                    unit=unit_of(problem),
                    worth=saved,
                    how="relaxation of the replicas rented, by the cost model",
                )
            )
    return tuple(out)


def _relaxed_cost(
    columns: Columns, problem: FleetProblem, rented: Sequence[Replica], served: ServedModel
) -> np.ndarray:
    """What a request of every class of a model adds to the objective, an hour long, on the cheapest replica rented."""
    mine = [at for at, each in enumerate(columns.classes) if each.model == served.model]
    best = np.full(len(columns.classes), np.inf)
    for replica in rented:
        pools = replica.pools
        if replica.model != served.model or len(pools) != 1 or pools[0].degrees is None:
            continue
        made = columns.candidate(served, pools[0].gpu, replica.format, pools[0].degrees)
        for price in problem.prices:
            if problem.replicas[price.replica].name == replica.name:
                with np.errstate(divide="ignore"):
                    best = np.minimum(best, price.cost / price.capacity / made.rates)
    return np.where(np.isin(np.arange(len(best)), mine), best, 0.0)


def _alternative(job: FleetJob, what_if: WhatIf) -> Alternative:
    """The best fleet after a change; a change that leaves none is told too."""
    other = changed(job, what_if)
    try:
        _, _, plan = _planned(other, ())
    except (Infeasible, LimitReached) as error:
        return Alternative(label=f"what if {what_if.text}", value=0.0, why=f"no fleet: {error}")
    assert plan.rental is not None
    parts = [f"{each.count} × {plan.rental.replicas[each.replica].name}" for each in plan.rental.rented]
    return Alternative(label=f"what if {what_if.text}", value=plan.optimality.value, why=", ".join(parts))
