"""The serving job that `serve` and `estimate` describe on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .training_options import integers

if TYPE_CHECKING:
    from ..plan.base import Input
    from ..workload.serving import LengthBin, Load, ServingJob, Trace

_DEGREES = ("tp", "pp", "attn_dp", "cp", "ep", "moe_tp")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What the command line says of the load."""

    isl: int | None = None
    osl: int | None = None
    rate: float | None = None
    concurrency: int | None = None
    trace: str | None = None
    lengths: str | None = None
    hours: str | None = None
    cached: float = 0.0
    spread: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GivenLoad:
    """The load, its trace or hours if it has them, and the record of its file."""

    load: Load
    trace: Trace | None
    hours: tuple[tuple[str, float], ...]
    inputs: tuple[Input, ...]


def given_load(options: LoadOptions) -> GivenLoad:
    """The load of the options. Raises InputError naming the option that is missing or one too many."""
    from ..serving.planning import load_of_trace
    from ..workload.serving import Load
    from ..workload.serving_traces import read_schedule, read_trace

    sources = [options.rate is not None, options.concurrency is not None, options.hours is not None]
    if sum(sources) + (options.trace is not None and not any(sources)) != 1:
        raise InputError(
            "give one of --rate, --concurrency, --hours, or --trace (with --concurrency for a closed loop)"
        )
    if options.trace is not None:
        if options.rate is not None or options.hours is not None:
            raise InputError("--trace has its own rate: leave --rate and --hours out")
        trace = read_trace(options.trace)
        return GivenLoad(load_of_trace(trace, options.concurrency), trace, (), (_trace_input(options.trace, trace),))
    lengths = _lengths(options)
    hours: tuple[tuple[str, float], ...] = ()
    inputs: tuple[Input, ...] = ()
    rate = options.rate
    if options.hours is not None:
        hours = tuple(read_schedule(options.hours))
        rate = max(each for _, each in hours)
        inputs = (_input(options.hours, [list(hour) for hour in hours]),)
    load = Load(
        lengths=lengths,
        rate_per_s=rate,
        concurrency=options.concurrency,
        cached=options.cached,
        spread=options.spread,
        seed=options.seed,
    )
    return GivenLoad(load, None, hours, inputs)


def serving_job(load: Load, targets: dict[str, str | None], **fields: Any) -> ServingJob:
    """The job; `targets` are durations as given (`500ms`), degrees are texts such as `4` or `2,4`.

    Raises InputError naming the option that is wrong.
    """
    import msgspec

    from ..workload.serving import ServingJob, Targets
    from .common import parse_duration

    held = {name: integers(fields.pop(name, None), f"--{name.replace('_', '-')}") for name in _DEGREES}
    limits: dict[str, Any] = {f"{name}_s": parse_duration(text) for name, text in targets.items() if text is not None}
    percentile = fields.pop("percentile")
    draft, acceptance = fields.pop("draft_tokens", None), fields.pop("acceptance", None)
    given = {name: value for name, value in fields.items() if value is not None}
    if draft is not None:
        given["speculation"] = {"draft_tokens": draft} | ({} if acceptance is None else {"acceptance": acceptance})
    try:
        return msgspec.convert(
            given
            | {
                "load": msgspec.to_builtins(load),
                "targets": msgspec.to_builtins(Targets(percentile=percentile, **limits)),
                "constraints": held,
            },
            ServingJob,
        )
    except msgspec.ValidationError as error:
        raise InputError(f"serving job: {error}") from error


def _lengths(options: LoadOptions) -> tuple[LengthBin, ...]:
    import msgspec

    from ..files import read_document
    from ..workload.serving import LengthBin

    if options.lengths is not None:
        document = read_document(options.lengths, "length distribution")
        try:
            bins = msgspec.convert(document, tuple[LengthBin, ...])
        except (msgspec.ValidationError, InputError) as error:
            raise InputError(f"length distribution {options.lengths}: {error}") from error
        if not bins:
            raise InputError(f"length distribution {options.lengths}: holds no lengths")
        return bins
    if options.isl is None or options.osl is None:
        raise InputError("--isl and --osl are missing: give both, or --lengths, or --trace")
    return (LengthBin(isl=options.isl, osl=options.osl),)


def _trace_input(path: str, trace: Trace) -> Input:
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.cached_tokens)
    return _input(path, [column.tolist() for column in columns], keep=False)


def _input(path: str, document: object, keep: bool = True) -> Input:
    from ..files import sha256_of
    from ..plan.base import Input

    return Input(role="load", source=path, sha256=sha256_of(document), document=document if keep else None)
