"""A rental against the fleet job that the plan keeps: its requests, kinds, prices, caps, losses, hours and changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import msgspec

from shardwright.models import kv_bytes_per_token

from ..errors import InputError
from ..inputs import JOB, restored_model
from ..plan.fleet import CARRIED, CHANGED, COST, DRAWN, FleetPlan, Insurance, Rental, Replica
from ..workload.clocks import at_any_clock, at_clock, clocked
from ..workload.fleet import FleetJob, Running, ServedModel, ThroughputError
from ..workload.serving_layout import quantization
from .common import TOLERANCE, close
from .fleet_latencies import MODELLED, latency_problems
from .fleet_losses import lost_problems
from .fleet_offers import Place, limit_problems, matched, name_of, watts_of

MEASURED = "measured table"


def kept_job(plan: FleetPlan) -> FleetJob | None:
    """The job that the plan was made from; None where it was made from a configuration. Raises InputError."""
    document = next((record.document for record in plan.inputs if record.source == JOB), None)
    if not isinstance(document, dict) or "models" not in document:
        return None
    try:
        return msgspec.convert(document, FleetJob)
    except msgspec.ValidationError as error:
        raise InputError(f"inputs: the fleet job kept in the plan is refused: {error}") from error


def job_problems(plan: FleetPlan, rental: Rental, job: FleetJob, hours: Sequence[Sequence[int]]) -> list[str]:
    """One sentence for everything that is not as the job has it; `hours` are the counts of every hour."""
    found = [*_asked(plan, rental, job), *_workload(rental, job), *_kinds(plan, rental, job)]
    rows, unknown = matched(job, rental)
    found += unknown
    known = [each for each in rows if each is not None]
    if len(known) < len(rows):
        return found
    found += limit_problems(job, rental, known, hours)
    found += lost_problems(job, rental)
    found += latency_problems(rental, job)
    found += _alone(plan, rental, job)
    before = [_before(job, rental, known, at) for at in range(len(known))]
    return [*found, *_schedule(plan, rental, job, known, before), *_change(rental, job, known, before)]


def _asked(plan: FleetPlan, rental: Rental, job: FleetJob) -> Iterator[str]:
    """The objective, slices and sections that the job asks for."""
    best = plan.optimality
    most = job.objective == "throughput"
    starts = len(job.hours) > 1 or bool(job.current)
    objective = CHANGED if starts else {"cost": COST, "energy": DRAWN, "throughput": CARRIED}[job.objective]
    if (best.objective, best.sense) != (objective, "max" if most else "min"):
        yield f"optimality: the job asks for the {'most' if most else 'least'} {objective}"
    if plan.provenance.seed != job.seed:
        yield f"provenance.seed is {plan.provenance.seed} but {job.seed} by the job"
    if rental.slices != job.slices:
        yield f"slices is {rental.slices} but {job.slices} by the job"
    sections = (
        ("schedule", rental.schedule, bool(job.hours)),
        ("change", rental.change, bool(job.current) and not job.hours),
        ("insurance", rental.insurance, job.error is not None),
    )
    for name, section, asked in sections:
        if (section is not None) != asked:
            yield f"{name}: the job asks for {'one' if asked else 'none'}"
    if not most and not close(rental.carried, _busiest(job)):
        yield f"carried is {rental.carried:.6g} but the job's rates are to be carried {_busiest(job):.6g} times"
    if job.error is not None and rental.insurance is not None:
        yield from _insurance(plan, rental, rental.insurance, job.error)
    counted = [1.0] if job.error is None else _counted(job, job.error)
    for at, replica in enumerate(rental.replicas):
        if not any(close(replica.usable, share) for share in counted) or replica.usable != rental.replicas[0].usable:
            yield f"replicas[{at}].usable is {replica.usable:.6g}, which the job's error does not allow to count on"


def _busiest(job: FleetJob) -> float:
    return max((multiple for _, multiple in job.hours), default=1.0)


def _counted(job: FleetJob, error: ThroughputError) -> list[float]:
    """Shares of throughputs whose shortfall, for one GPU type of 1, 2, … in use, is as likely as allowed; or all."""
    shares = [1.0]
    for types in range(1, len({name_of(offer.gpu) for offer in job.offers}) + 1):
        chance = 1 - (1 - error.overload) ** (1 / types)
        uniform = 1 - error.spread + 2 * error.spread * chance
        shares.append(uniform if error.shape == "uniform" else 1 + error.spread * NormalDist().inv_cdf(chance))
    return shares


def _insurance(plan: FleetPlan, rental: Rental, told: Insurance, error: ThroughputError) -> Iterator[str]:
    if (told.spread, told.shape, told.overload_allowed) != (error.spread, error.shape, error.overload):
        yield "insurance: spread, shape and the chance allowed must be the job's"
    worse = plan.optimality.value - told.usd_per_hour_without
    worse = -worse if plan.optimality.sense == "max" else worse
    kept = rental.change is not None and rental.change.kept
    if worse < -1e-4 * abs(told.usd_per_hour_without):
        yield f"insurance.usd_per_hour_without is {told.usd_per_hour_without:.6g}: no insurance costs less than nothing"
    safe = told.overload_without <= error.overload + TOLERANCE
    if safe and not kept and abs(worse) > TOLERANCE * max(abs(plan.optimality.value), 1):
        yield "insurance: the fleet that trusts throughputs is safe and must be the plan's"
    if not 0 <= told.overload_without <= 1 or (not kept and told.overload_without < told.overload - TOLERANCE):
        yield "insurance.overload_without must be a chance no smaller than that of the insured fleet"


def _workload(rental: Rental, job: FleetJob) -> Iterator[str]:
    """Request classes are the job's lengths, in order, at the job's rates times what is carried."""
    expected = [
        (served, each, served.rate_per_s * each.weight / sum(other.weight for other in served.lengths))
        for served in job.models
        for each in served.lengths
    ]
    if len(expected) != len(rental.classes):
        yield f"classes: the job has {len(expected)} classes of requests but the plan {len(rental.classes)}"
        return
    for at, (told, (served, each, rate)) in enumerate(zip(rental.classes, expected, strict=True)):
        name = f"{served.model + ': ' if len(job.models) > 1 else ''}{each.isl} in, {each.osl} out"
        if (told.name, told.model, told.isl, told.osl) != (name, served.model, each.isl, each.osl):
            yield f"classes[{at}] must be the job's requests {name} of {served.model}"
        if not close(told.rate_per_s, rate * rental.carried):
            yield f"classes[{at}].rate_per_s is {told.rate_per_s:.6g} but {rate * rental.carried:.6g} by the job"


def _kinds(plan: FleetPlan, rental: Rental, job: FleetJob) -> Iterator[str]:
    """Kinds of replica are those of a measured table, or layouts of a model on the GPUs that their degrees need."""
    served = {each.model: each for each in job.models}
    for at, replica in enumerate(rental.replicas):
        where = f"replicas[{at}]"
        if replica.model not in served:
            yield f"{where}: {replica.model} is none of the job's models"
            continue
        if (replica.gpus, replica.gpu) != (sum(each.gpus for each in replica.pools), _gpus(replica)):
            yield f"{where}: gpus and gpu must be those of its pools"
        others = [
            most
            for most, each in zip(replica.requests_per_s, rental.classes, strict=True)
            if each.model != replica.model
        ]
        if any(others):
            yield f"{where}: {replica.name} is said to carry requests of another model"
        gpu, clock = at_any_clock(replica.gpu), at_clock(replica.gpu.partition("+")[0])[1]
        tables = [each for each in job.tables if (each.model, name_of(each.gpu)) == (replica.model, gpu)]
        if tables:
            kind = (replica.gpus, replica.layout, clock)
            mine = [each.requests_per_s for each in tables if (each.gpus, each.layout, each.clock) == kind]
            told = tuple(
                most
                for most, each in zip(replica.requests_per_s, rental.classes, strict=True)
                if each.model == replica.model
            )
            if told not in mine or replica.source != MEASURED:
                yield f"{where}: requests_per_s of {replica.name} are those of no table of the job"
            pools = [(each.phase, each.workers, each.degrees) for each in replica.pools]
            words = (replica.format, replica.engine, replica.name)
            if pools != [("aggregated", 1, None)] or words != ("", "", _name(replica)):
                yield f"{where}: a measured replica has the name of its layout and GPU, and no format or engine"
        else:
            yield from _made(where, replica, served[replica.model])
            yield from _handed_over(where, plan, rental, replica)


def _gpus(replica: Replica) -> str:
    return "+".join(dict.fromkeys(each.gpu for each in replica.pools))


def _name(replica: Replica) -> str:
    return f"{replica.layout} on {replica.gpu}" if replica.layout else replica.gpu


def _made(where: str, replica: Replica, served: ServedModel) -> Iterator[str]:
    """A replica of the cost model: its pools say its layout, GPUs and name."""
    if replica.source not in MODELLED:
        yield f"{where}.source must be one of {', '.join(MODELLED)} but is {replica.source!r}"
    if replica.format not in served.formats or replica.engine != served.engine:
        yield f"{where}: format and engine must be the job's but are {replica.format!r} and {replica.engine!r}"
    phases = [each.phase for each in replica.pools]
    if phases not in (["aggregated"], ["prefill", "decode"]):
        yield f"{where}: pools must be one, or a prefill and a decode pool"
        return
    suffix = "" if replica.format == "bf16" else f" {replica.format}"
    labels = []
    for pool in replica.pools:
        if pool.degrees is None or pool.workers < 1 or pool.gpus != pool.workers * pool.degrees.devices:
            yield f"{where}: the {pool.phase} pool must have the GPUs that its workers' degrees need"
            return
        labels.append(pool.degrees.label())
    if len(labels) == 1:
        layout = labels[0] + suffix
        name = f"{layout} on {replica.gpu}"
        if replica.pools[0].workers != 1:
            yield f"{where}: a whole copy is one worker"
    else:
        parts = zip(phases, labels, replica.pools, strict=True)
        layout = name = (
            ", ".join(f"{phase} {each.workers} × {label} on {each.gpu}" for phase, label, each in parts) + suffix
        )
    if (replica.layout, replica.name) != (layout, name):
        yield f"{where}: its pools are {name!r} but it is called {replica.name!r}, layout {replica.layout!r}"


def _handed_over(where: str, plan: FleetPlan, rental: Rental, replica: Replica) -> Iterator[str]:
    """Caches of split replicas are of the model's size, and no more of them leave than the links pass."""
    told = replica.transfer
    if told is None or len(replica.pools) == 1:
        if (told is None) != (len(replica.pools) == 1):
            yield f"{where}: a split replica, and no other, must say how caches go from pool to pool"
        return
    size = kv_bytes_per_token(restored_model(plan, replica.model), dtype_bytes=quantization(replica.format).cache_bytes)
    if not close(told.bytes_per_token, size):
        yield f"{where}.transfer.bytes_per_token is {told.bytes_per_token:.6g} but {size:.6g} by the model"
    for most, each in zip(replica.requests_per_s, rental.classes, strict=True):
        if most * size * (each.isl or 1) > told.bytes_per_s * (1 + TOLERANCE):
            yield f"{where}: caches of requests {each.name} are more than the links pass"


def _alone(plan: FleetPlan, rental: Rental, job: FleetJob) -> Iterator[str]:
    """Fleets of one type cost what so many GPUs of it may cost, and no less than the proof allows."""
    for each in rental.single_type:
        prices = [offer.usd_per_hour for offer in job.offers if name_of(offer.gpu) == each.gpu]
        where = f"single_type {each.gpu}"
        if not prices:
            yield f"{where}: is not offered"
        elif each.usd_per_hour is not None and each.gpus is not None:
            low, high = _draws(job, each.gpu)
            if (each.watts is None) != (low is None) or not (
                each.gpus * (low or 0.0) * (1 - TOLERANCE)
                <= (each.watts or 0.0)
                <= each.gpus * (high or 0.0) * (1 + TOLERANCE)
            ):
                yield f"{where}: {each.gpus} GPUs draw from {low} to {high} W each, not {each.watts} W in all"
            least, most = each.gpus * min(prices), each.gpus * max(prices)
            if not least * (1 - TOLERANCE) <= each.usd_per_hour <= most * (1 + TOLERANCE):
                yield f"{where}: {each.gpus} GPUs cost from {least:.6g} to {most:.6g} $/h, not {each.usd_per_hour:.6g}"
            better = each.carried > plan.optimality.bound * (1 + TOLERANCE)
            if job.objective == "throughput":
                if better or each.usd_per_hour > (job.budget_usd_per_hour or math.inf) * (1 + TOLERANCE):
                    yield f"{where}: carries more than the bound, or costs more than the budget"
            elif not close(each.carried, _busiest(job)):
                yield f"{where}: carries {each.carried:.6g} times the rates instead of {_busiest(job):.6g}"
            elif (
                job.objective == "cost"
                and not job.hours
                and not job.current
                and each.usd_per_hour < plan.optimality.bound * (1 - TOLERANCE)
            ):
                yield f"{where}: costs {each.usd_per_hour:.6g} $/h, less than the bound {plan.optimality.bound:.6g}"


def _draws(job: FleetJob, gpu: str) -> tuple[float | None, float | None]:
    """The least and the most that a GPU of a type may draw at any of its clocks."""
    offers = [offer for offer in job.offers if name_of(offer.gpu) == gpu]
    draws = [watts_of(offer, clock) for offer in offers for clock in (1.0, *(each.share for each in offer.clocks))]
    known = [each for each in draws if each is not None]
    return (min(known), max(known)) if len(known) == len(draws) else (None, None)


def _before(job: FleetJob, rental: Rental, rows: Sequence[Place], at: int) -> int | None:
    """Units of a row that ran before by the job; None where the job does not say which of several kinds they are."""
    replica = rental.replicas[rental.rented[at].replica]
    total = 0
    for group in job.current:
        if not _is_of(group, replica, rental, at):
            continue
        if (not group.model and len(job.models) > 1) or (
            not group.layout and (replica.layout or _tables(job, group) != 1)
        ):
            return None
        offers = [offer for offer in job.offers if (name_of(offer.gpu), offer.region, offer.tier) == _place(group)]
        if len(offers) != 1:
            return None
        total += math.ceil(group.count / rows[at].row.copies)
    return total


def _place(group: Running) -> tuple[str, str, str]:
    return name_of(at_any_clock(group.gpu)), group.region, group.tier


def _tables(job: FleetJob, group: Running) -> int:
    return sum((name_of(each.gpu), each.gpus) == (name_of(group.gpu), group.gpus) for each in job.tables)


def _is_of(group: Running, replica: Replica, rental: Rental, at: int) -> bool:
    row = rental.rented[at]
    same = replica.layout == group.layout if group.layout else replica.gpus == group.gpus
    parts = [at_clock(part) for part in group.gpu.split("+")]
    gpu = "+".join(clocked(name_of(name), clock) for name, clock in parts)
    return (
        same
        and group.model in ("", replica.model)
        and (replica.gpu, row.region, row.tier) == (gpu, group.region, group.tier)
    )


def _schedule(
    plan: FleetPlan, rental: Rental, job: FleetJob, rows: Sequence[Place], before: Sequence[int | None]
) -> Iterator[str]:
    """Hours are the job's; what starts in each, and what that costs, follows from the counts."""
    schedule = rental.schedule
    if schedule is None or not job.hours:
        return
    if [(hour.hour, hour.multiple) for hour in schedule.hours] != list(job.hours):
        yield "schedule: hours must have the job's names and multiples of the rates"
        return
    last = schedule.hours[-1].counts
    previous: Sequence[int | None] = before if job.current else last
    paid, starts = 0.0, 0
    for hour in schedule.hours:
        if None in previous:
            return
        more = [max(now - (then or 0), 0) for now, then in zip(hour.counts, previous, strict=True)]
        if hour.started != sum(more):
            yield f"hour {hour.hour}: started is {hour.started} but the counts say {sum(more)}"
        paid += sum(count * row.usd_per_start for count, row in zip(more, rows, strict=True))
        starts += sum(more)
        previous = hour.counts
    over = len(job.hours) if len(job.hours) > 1 else job.switching.horizon_hours
    if not math.isclose(schedule.start_usd_per_hour, paid / over, rel_tol=1e-5, abs_tol=1e-7):
        yield f"schedule.start_usd_per_hour is {schedule.start_usd_per_hour:.6g} but starts cost {paid / over:.6g}"
    if schedule.starts != starts:
        yield f"schedule.starts is {schedule.starts} but the hours start {starts}"
    if not job.current and schedule.usd_per_hour_static < plan.optimality.bound * (1 - TOLERANCE):
        yield f"schedule.usd_per_hour_static is {schedule.usd_per_hour_static:.6g}, less than the bound"
    yield from _stays(rental, job)


def _stays(rental: Rental, job: FleetJob) -> Iterator[str]:
    """What starts stays for the least hours, and reserved units are the same at all hours."""
    assert rental.schedule is not None
    counts = [hour.counts for hour in rental.schedule.hours]
    hours = len(counts)
    for at, row in enumerate(rental.rented):
        if row.tier == "reserved" and len({each[at] for each in counts}) > 1:
            yield f"schedule: reserved units of row {at} must be the same in all hours"
        for hour in range(hours if not job.current else 0):
            recent = range(hour - min(job.switching.least_hours, hours) + 1, hour + 1)
            begun = sum(max(counts[each % hours][at] - counts[(each - 1) % hours][at], 0) for each in recent)
            if begun > counts[hour][at]:
                yield f"schedule: row {at} stops units before they have run {job.switching.least_hours} hours"
                break


def _change(rental: Rental, job: FleetJob, rows: Sequence[Place], before: Sequence[int | None]) -> Iterator[str]:
    """What starts and stops is the difference from the fleet that the job says runs."""
    change = rental.change
    if change is None:
        return
    for at, (row, ran) in enumerate(zip(rental.rented, before, strict=True)):
        if ran is None:
            continue
        expected = max(row.count - ran, 0), max(ran - row.count, 0)
        if (change.started[at], change.stopped[at]) != expected:
            yield (
                f"change: row {at} of rented had {ran} units and has {row.count}, so it starts {expected[0]} and stops "
                f"{expected[1]}"
            )
    paid = sum(count * row.usd_per_start for count, row in zip(change.started, rows, strict=True))
    paid /= job.switching.horizon_hours
    if not math.isclose(change.start_usd_per_hour, paid, rel_tol=1e-6, abs_tol=1e-9):
        yield f"change.start_usd_per_hour is {change.start_usd_per_hour:.6g} but starts cost {paid:.6g}"
    if change.kept and (any(change.started) or any(change.stopped) or not job.switching.least_saving):
        yield "change: a fleet that is kept starts and stops nothing, and the job must ask for a least saving"
    if change.usd_per_hour_anew > rental.usd_per_hour * (1 + 1e-4):
        yield f"change.usd_per_hour_anew is {change.usd_per_hour_anew:.6g}, more than this fleet costs"
