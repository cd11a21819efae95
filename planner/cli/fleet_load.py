"""The load that `fleet` is asked to serve: sizes of requests, their rate, and its hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..plan.base import Input
    from .fleet_options import FleetOptions


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """Sizes of requests as records, requests per second where known, (name, multiple) of every hour, and the files."""

    lengths: list[dict[str, Any]]
    rate: float | None
    hours: tuple[tuple[str, float], ...] = ()
    sources: tuple[Input, ...] = ()


def lengths_and_hours(options: FleetOptions) -> FleetLoad:
    """The load of the options. Raises InputError naming the option that is missing or one too many."""
    if options.trace is not None:
        if options.lengths is not None or options.isl is not None or options.osl is not None:
            raise InputError("--trace has its own lengths: leave --isl, --osl and --lengths out")
        found = _of_trace(options)
    else:
        if options.hourly:
            raise InputError("--hourly follows a --trace: give one, or --hours with a CSV")
        found = _of_lengths(options)
    if options.hours is None:
        return found
    if options.rate is not None or options.hourly:
        raise InputError("--hours has its own rates: leave --rate and --hourly out")
    rate, hours, source = _of_schedule(options.hours)
    return FleetLoad(found.lengths, rate, hours, (*found.sources, source))


def _of_trace(options: FleetOptions) -> FleetLoad:
    import math

    import msgspec

    from ..fleet.loads import hours_of_trace, lengths_of_trace
    from ..inputs import trace_input
    from ..workload.serving_traces import read_trace

    assert options.trace is not None
    trace = read_trace(options.trace)
    rate, hours = hours_of_trace(trace) if options.hourly else (trace.rate_per_s, ())
    if not math.isfinite(rate) and options.rate is None:
        raise InputError(f"trace {trace.name}: all requests arrive at once; give a --rate")
    lengths = [msgspec.to_builtins(each) for each in lengths_of_trace(trace)]
    return FleetLoad(lengths, rate, hours, (trace_input(options.trace, trace),))


def _of_schedule(path: str) -> tuple[float, tuple[tuple[str, float], ...], Input]:
    from ..inputs import schedule_input
    from ..workload.serving_traces import read_schedule

    rows = read_schedule(path)
    busiest = max(rate for _, rate in rows)
    if busiest <= 0:
        raise InputError(f"schedule {path}: no hour has requests")
    return busiest, tuple((name, rate / busiest) for name, rate in rows), schedule_input(path, rows)


def _of_lengths(options: FleetOptions) -> FleetLoad:
    from ..files import read_document, sha256_of
    from ..plan.base import Input

    if options.lengths is None:
        if options.isl is None or options.osl is None:
            raise InputError("--isl and --osl are missing: give both, or --lengths, or --trace")
        return FleetLoad([{"isl": options.isl, "osl": options.osl}], None)
    if options.isl is not None or options.osl is not None:
        raise InputError("--lengths has its own lengths: leave --isl and --osl out")
    document = read_document(options.lengths, "length distribution")
    if not isinstance(document, list):
        raise InputError(f"length distribution {options.lengths}: must be a list of isl, osl and weight")
    source = Input(role="load", source=options.lengths, sha256=sha256_of(document), document=document)
    return FleetLoad(document, None, sources=(source,))
