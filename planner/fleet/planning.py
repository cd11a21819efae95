"""From a fleet problem or a job to a plan: solve, read back, and set the single-type fleets beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version

import msgspec

from shardwright.solvers import Gap, Status, Stop, Work, relative_gap

from ..inputs import job_input
from ..plan.base import Input, Optimality, Provenance
from ..plan.fleet import CARRIED, CHANGED, COST, DRAWN, MANY_GPUS, MANY_NOTE, FleetPlan, Insurance, Rental
from ..workload.fleet import FleetJob
from .covering import Demands, solve_covering
from .explain import shadow_prices
from .found import Found
from .problem import FleetProblem
from .program import PROOF
from .readback import change_of, rental_of, schedule_of
from .running import units_running
from .single import alternatives, single_types
from .solving import CHANCE, chance, insure, solve_fleet

CLOSE = Gap(1e-3) | Work(2_000)
"""Near enough to the best fleet to say which replicas matter."""
PROVEN_GAP = 1e-9
PROOF_GAP = 1e-4
CLOCKS = (
    "a lower clock slows products in proportion, and reads of memory, links and hosts not at all; its draw is assumed "
    "where the offers give none: a fifth of the full one at rest, and the rest with the power 1.2 of the clock"
)


def plan_problem(problem: FleetProblem, inputs: tuple[Input, ...] = (), seed: int = 0) -> FleetPlan:
    """The cheapest fleet for a problem alone. Raises Infeasible naming what binds."""
    demands = Demands()
    found = solve_fleet(problem, demands, seed)
    return _plan(problem, found, demands, rental_of(problem, found, demands), (inputs, (), seed))


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found for a job, on the throughputs that are counted on, and what runs but cannot be rented."""

    counted: FleetProblem
    found: Found
    demands: Demands
    dropped: tuple[str, ...]
    insurance: Insurance | None
    kept: bool


def answered(job: FleetJob, problem: FleetProblem, stop: Stop = PROOF) -> Answer:
    """The best fleet for a job whose problem is assembled. Raises Infeasible naming what binds.

    `stop` ends the search where packing alone answers it (`packs`).
    """
    demands, dropped = _demands(job, problem)
    insurance = None
    counted = problem
    if job.error is not None:
        safe = insure(problem, demands, job.error, job.seed)
        found, counted = safe.found, safe.problem
        insurance = Insurance(
            spread=job.error.spread,
            shape=job.error.shape,
            overload_allowed=job.error.overload,
            overload=safe.overload,
            usd_per_hour_without=safe.trusting.value,
            overload_without=safe.overload_without,
        )
    else:
        found = solve_fleet(problem, demands, job.seed, stop)
    kept = False
    if job.current and not job.hours:
        found, kept = _kept(job, counted, demands, found)
    if kept and insurance is not None and job.error is not None:
        insurance = msgspec.structs.replace(insurance, overload=chance(counted, found, demands, job.error))
    return Answer(counted, found, demands, dropped, insurance, kept)


def packs(job: FleetJob) -> bool:
    """Whether packing alone answers a job, so that its search may end early."""
    return job.error is None and not (job.failures.any or job.hours or job.current or job.objective == "throughput")


def rented(job: FleetJob, answer: Answer) -> Rental:
    """What a plan would rent and route, without the fleets set beside it."""
    rental = rental_of(answer.counted, answer.found, answer.demands)
    if job.hours:
        names = tuple(name for name, _ in job.hours)
        hours = schedule_of(answer.counted, answer.found, answer.demands, names, answer.found.value)
        rental = msgspec.structs.replace(rental, schedule=hours)
    return rental


def plan_of(
    job: FleetJob,
    answer: Answer,
    inputs: tuple[Input, ...] = (),
    notes: tuple[str, ...] = (),
    outside: float | None = None,
) -> FleetPlan:
    """The plan of an answer to a job, which is kept in it.

    `outside` is the best value that a fleet with replicas left out of the problem may have; the proof goes no further.
    """
    counted, found, demands = answer.counted, answer.found, answer.demands
    if outside is not None:
        found = _reaching(found, outside, largest=demands.largest)
    rental = msgspec.structs.replace(rental_of(counted, found, demands), insurance=answer.insurance)
    if job.hours:
        busiest = replace(demands, hours=(max(demands.hours),), before=None)
        static = solve_fleet(counted, busiest, job.seed).value
        names = tuple(name for name, _ in job.hours)
        rental = msgspec.structs.replace(rental, schedule=schedule_of(counted, found, demands, names, static))
    elif job.current:
        anew = solve_fleet(counted, replace(demands, before=None), job.seed).value
        rental = msgspec.structs.replace(
            rental, change=change_of(counted, found, demands, answer.dropped, anew, answer.kept)
        )
    notes += _notes(job, answer.dropped)
    return _plan(counted, found, demands, rental, ((*inputs, job_input(job)), notes, job.seed))


def _reaching(found: Found, outside: float, *, largest: bool) -> Found:
    """The same fleet with a bound that holds for fleets outside the problem too."""
    bound = max(found.bound, outside) if largest else min(found.bound, outside)
    open_ = relative_gap(found.value, bound) > PROOF_GAP
    return replace(found, bound=bound, status=Status.FEASIBLE if open_ else found.status)


def best_found(job: FleetJob, problem: FleetProblem, stop: Stop = PROOF) -> Found:
    """What the program finds for a job, insured where asked."""
    demands, _ = _demands(job, problem)
    if job.error is not None:
        return insure(problem, demands, job.error, job.seed).found
    return solve_fleet(problem, demands, job.seed, stop)


def _demands(job: FleetJob, problem: FleetProblem) -> tuple[Demands, tuple[str, ...]]:
    before, dropped = units_running(job, problem) if job.current else (None, ())
    return Demands(
        failures=job.failures,
        hours=tuple(multiple for _, multiple in job.hours) or (1.0,),
        before=before,
        least_hours=job.switching.least_hours,
        horizon_hours=job.switching.horizon_hours,
        largest=job.objective == "throughput",
    ), dropped


def _kept(job: FleetJob, problem: FleetProblem, demands: Demands, found: Found) -> tuple[Found, bool]:
    """The running fleet itself where it holds the load and a change would save too little."""
    if not job.switching.least_saving or demands.before is None or not demands.before.any():
        return found, False
    if any(cap.row @ demands.before > cap.most + 1e-9 for cap in problem.caps):
        return found, False
    same = solve_covering(problem, demands, fixed=demands.before).point
    if same is None or same.value - found.value >= job.switching.least_saving * same.value:
        return found, False
    if job.error is not None and chance(problem, same, demands, job.error) > job.error.overload + CHANCE:
        return found, False
    return replace(same, bound=found.bound, status=Status.FEASIBLE), True


def _plan(
    problem: FleetProblem,
    found: Found,
    demands: Demands,
    rental: Rental,
    about: tuple[tuple[Input, ...], tuple[str, ...], int],
) -> FleetPlan:
    inputs, notes, seed = about
    single = single_types(problem, demands)
    rental = msgspec.structs.replace(
        rental, single_type=single, shadow_prices=shadow_prices(problem, found, demands, seed)
    )
    best = optimality_of(found, demands, energy=problem.energy)
    value = rental.usd_per_hour if best.objective in (COST, CHANGED) else found.value
    many = (f"{rental.gpus} GPUs can be had: {MANY_NOTE}",) if rental.gpus > MANY_GPUS else ()
    return FleetPlan(
        inputs=inputs,
        optimality=best,
        assumptions=assumptions_of(problem, demands) + notes + many,
        alternatives=alternatives(single, best.objective, value),
        provenance=Provenance(
            tool_version=version("shardwright"),
            seed=seed,
            solver=found.solver,
            libraries={name: version(name) for name in ("numpy", "ortools")},
        ),
        rental=rental,
    )


def optimality_of(found: Found, demands: Demands, *, energy: bool = False) -> Optimality:
    """The claim of proof."""
    gap = relative_gap(found.value, found.bound)
    starts = len(demands.hours) > 1 or demands.before is not None
    return Optimality(
        objective=DRAWN if energy else CARRIED if demands.largest else CHANGED if starts else COST,
        sense="max" if demands.largest else "min",
        value=found.value,
        bound=found.bound,
        gap=gap,
        status="optimal" if found.status is Status.OPTIMAL or gap <= PROVEN_GAP else "feasible",
        work=found.work,
    )


def assumptions_of(problem: FleetProblem, demands: Demands) -> tuple[str, ...]:
    """What the program takes for granted."""
    if problem.slices is None:
        routed = "any share of a request class may go to any kind of replica"
    elif problem.slices == 1:
        routed = "every request class goes to one kind of replica"
    else:
        routed = (
            f"every request class is divided into {problem.slices} equal slices, each served by one kind of replica"
        )
    out = [
        routed,
        "loads add up: a replica that spends a share of its throughput on one class has the rest for the others",
        "the replicas of a kind share its load evenly",
    ]
    if any(price.available < 1 for price in problem.prices):
        out.append("capacity that is taken away at times counts by the share of the time that it is there")
    if any("@" in replica.gpu for replica in problem.replicas):
        out.append(CLOCKS)
    if any(price.copies > 1 for price in problem.prices):
        out.append("an instance that holds several replicas holds replicas of one kind")
    if demands.failures.any:
        out.append("after a loss requests are routed anew, as the contingencies say")
        if demands.failures.replicas:
            out.append("a unit that fails counts as the largest of its kind that is offered")
    if len(demands.hours) > 1 and demands.before is None:
        out.append("the schedule repeats: the first hour follows the last")
    return tuple(out)


def _notes(job: FleetJob, dropped: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    for power in job.power:
        if power.oversubscription:
            place = ", ".join(power.regions) or "all regions"
            notes.append(
                f"GPUs in {place} never draw more than {1 / (1 + power.oversubscription):.0%} of their limits at once"
            )
    if job.error is not None:
        notes.append("every GPU type has one error on all its throughputs, independent of the other types")
    if dropped:
        notes.append(f"not among what can be rented, and so stopped: {', '.join(dropped)}")
    return tuple(notes)
