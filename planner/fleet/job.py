"""From a fleet job to a plan: which replicas there are, the best fleet of them, and what changes would be worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np

from shardwright.models import ModelGraph
from shardwright.solvers import Stop

from .. import inputs
from ..errors import Infeasible, LimitReached
from ..plan.base import Alternative, Input
from ..plan.fleet import FleetPlan, Replica, ShadowPrice
from ..workload.fleet import FleetJob, ServedModel
from .candidates import Candidate, covered_by_tables, measured_candidates, offered_types, request_classes
from .columns import Columns, Known, check_context
from .found import Found
from .infeasible import unservable
from .mixing import TURNS, Settling
from .offers import assemble, name_of, undominated
from .planning import CLOSE, Answer, answered, best_found, packs, plan_of
from .problem import FleetProblem
from .split import simulated_split
from .supply import Supply
from .what_if import WhatIf, changed

FEW_CLASSES = 12
MOST_SPLITS, FEW_SPLITS, FEWEST_SPLITS = 1500, 192, 96
POOL_TURNS = 3
"""Plans with pools beside a fleet that holds without them; each of them is a large program."""
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
    ready, plan = _planned(job, sources)
    assert plan.rental is not None
    worth = plan.rental.shadow_prices + _milliseconds(ready, plan.rental.replicas)
    rental = msgspec.structs.replace(plan.rental, shadow_prices=worth)
    others = tuple(_alternative(job, each) for each in what_if)
    return msgspec.structs.replace(plan, rental=rental, alternatives=plan.alternatives + others)


def _planned(job: FleetJob, sources: tuple[Input, ...]) -> tuple[_Ready, FleetPlan]:
    """The plan whose replicas keep the targets alone and, where they are simulated, under the mix routed to them."""
    ready = _ready(job, sources)
    supply = ready.supply
    if job.simulate is False or all(each.source != "cost model" for each in ready.columns.made):
        supply.split(partial(_value_of, job, ready.columns))
        answer = answered(job, _assembled(ready, ready.columns.made))
        return ready, plan_of(job, answer, ready.sources, supply.notes() + _how(ready), supply.outside)
    settling = _settled(ready)
    best = settling.best
    assert best is not None
    outsides = [each for each in (supply.outside, best.outside) if each is not None]
    most = max if job.objective == "throughput" else min
    notes = supply.notes() + _how(ready) + settling.notes()
    plan = plan_of(job, best.answer, ready.sources, notes, most(outsides) if outsides else None)
    assert plan.rental is not None
    pairs = zip(plan.rental.replicas, best.latencies, strict=True)
    replicas = tuple(msgspec.structs.replace(replica, latencies=each) for replica, each in pairs)
    rental = msgspec.structs.replace(plan.rental, replicas=replicas)
    return ready, msgspec.structs.replace(plan, rental=rental)


def _settled(ready: _Ready) -> Settling:
    """The best fleet found whose replicas keep the targets under their mix, first without pools, so that these never
    make it dearer, and then with them."""
    made = ready.columns.made
    renting = _Renting(ready, list(made))
    settling = Settling(ready.columns, renting)
    if not ready.supply.most_splits:
        settling.settle()
        return settling
    with suppress(Infeasible, LimitReached):
        settling.settle()
    known = len(made)
    ready.supply.split(partial(_value_of, ready.job, ready.columns))
    renting.made += made[known:]
    settling.settle(TURNS if settling.best is None else POOL_TURNS)
    return settling


@dataclass
class _Renting:
    """Finds the best fleet of replicas lowered to what is known of them; those in it are simulated alone where asked,
    and more are made where they may matter."""

    ready: _Ready
    made: list[Candidate]

    def __call__(self, lowered: Callable[[Candidate], Candidate], stop: Stop) -> Answer:
        """The best fleet of the lowered replicas, found until `stop`."""
        job, columns = self.ready.job, self.ready.columns
        while True:
            if _alone(job, columns):
                self.made = _simulated(job, columns, self.made, lowered)
            answer = answered(job, _assembled(self.ready, [*map(lowered, self.made)]), stop)
            more = self.ready.supply.grow(_known(job, answer.found))
            if not more:
                return answer
            self.made += more


def _assembled(ready: _Ready, made: Sequence[Candidate]) -> FleetProblem:
    return assemble(ready.job, ready.columns.classes, undominated(ready.job, made))


def _ready(job: FleetJob, sources: tuple[Input, ...]) -> _Ready:
    """Every whole replica that can be part of a better fleet by the cost model's means."""
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

    supply = Supply(columns, _most_splits(job) if job.disaggregated else 0)
    supply.begin(partial(_value_of, job, columns))
    return _Ready(job, supply, sources + records)


def _value_of(job: FleetJob, columns: Columns, made: list[Candidate]) -> Known:
    """What a fleet must beat to be better than the best of some replicas."""
    try:
        return _known(job, best_found(job, assemble(job, columns.classes, undominated(job, made)), CLOSE))
    except Infeasible:
        return Known(np.inf)


def _known(job: FleetJob, found: Found) -> Known:
    """What a fleet must beat to be better than the one found."""
    if job.objective == "throughput":
        return Known(job.budget_usd_per_hour or 0.0, 1, found.multiple, np.inf)
    hours = [multiple for _, multiple in job.hours] or [1.0]
    return Known(found.value, len(hours), sum(hours), max(hours))


def _most_splits(job: FleetJob) -> int:
    """Split replicas to plan with: fewer where plans are simulated one after the other, or where the program of losses,
    hours and budgets takes longer for each."""
    if not packs(job):
        return FEWEST_SPLITS
    return MOST_SPLITS if job.simulate is False else FEW_SPLITS


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


def _how(ready: _Ready) -> tuple[str, ...]:
    """Where throughputs come from, as a note."""
    job, columns = ready.job, ready.columns
    if all(each.source != "cost model" for each in columns.made):
        return ()
    if not _alone(job, columns):
        return (UNSEEN if job.simulate is False else MEANS,)
    percentile = ", ".join(sorted({f"{each.targets.percentile:g}" for each in job.models}))
    return (f"throughputs of the replicas rented hold the targets at percentile {percentile} in simulation",)


def _alone(job: FleetJob, columns: Columns) -> bool:
    """Whether replicas are simulated under each class alone."""
    return job.simulate if job.simulate is not None else len(columns.classes) <= FEW_CLASSES


def _simulated(
    job: FleetJob,
    columns: Columns,
    made: list[Candidate],
    lowered: Callable[[Candidate], Candidate] = lambda each: each,
) -> list[Candidate]:
    """The replicas, those of the best fleet with simulated throughputs, until no other would be rented once lowered."""
    served = {each.model: each for each in job.models}
    while True:
        problem = assemble(job, columns.classes, undominated(job, [*map(lowered, made)]))
        counts = best_found(job, problem, CLOSE).counts.max(0)
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


def _milliseconds(ready: _Ready, rented: Sequence[Replica]) -> tuple[ShadowPrice, ...]:
    """What a millisecond more of each latency target saves, by the relaxation of the replicas rented."""
    job, columns = ready.job, ready.columns
    rates = np.array([each.rate_per_s for each in columns.classes])
    unit = "kW" if job.objective == "energy" else "$/h"
    out = []
    for served in job.models:
        for name, limit in served.targets.limits().items():
            looser = msgspec.structs.replace(
                served, targets=msgspec.structs.replace(served.targets, **{f"{name}_s": limit + MILLISECOND})
            )
            costs = [_relaxed_cost(ready.columns, rented, each) for each in (served, looser)]
            if not np.isfinite(costs).all():
                continue
            saved = float(rates @ (costs[0] - costs[1]))
            what = f"1 ms more of {name.upper()}" + (f" for {served.model}" if len(job.models) > 1 else "")
            out.append(
                ShadowPrice(
                    what=what,
                    unit=unit,
                    worth=saved,
                    how="relaxation of the replicas rented, by the cost model",
                )
            )
    return tuple(out)


def _relaxed_cost(columns: Columns, rented: Sequence[Replica], served: ServedModel) -> np.ndarray:
    """What a request of every class of a model adds to the objective, an hour long, on the cheapest replica rented."""
    mine = [at for at, each in enumerate(columns.classes) if each.model == served.model]
    best = np.full(len(columns.classes), np.inf)
    for replica in rented:
        pools = replica.pools
        if replica.model != served.model or len(pools) != 1 or pools[0].degrees is None:
            continue
        made = columns.candidate(served, pools[0].gpu, replica.format, pools[0].degrees)
        with np.errstate(divide="ignore"):
            best = np.minimum(best, columns.least(made.gpus) / made.rates)
    return np.where(np.isin(np.arange(len(best)), mine), best, 0.0)


def _alternative(job: FleetJob, what_if: WhatIf) -> Alternative:
    """The best fleet after a change; a change that leaves none is told too."""
    other = changed(job, what_if)
    try:
        _, plan = _planned(other, ())
    except (Infeasible, LimitReached) as error:
        return Alternative(label=f"what if {what_if.text}", value=0.0, why=f"no fleet: {error}")
    assert plan.rental is not None
    parts = [f"{each.count} × {plan.rental.replicas[each.replica].name}" for each in plan.rental.rented]
    return Alternative(label=f"what if {what_if.text}", value=plan.optimality.value, why=", ".join(parts))
