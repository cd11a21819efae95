"""The serving job that `serve` and `estimate` describe on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .training_options import integers

if TYPE_CHECKING:
    from ..plan.base import Input
    from ..workload.serving import LengthBin, Load, ServingJob, Trace
    from ..workload.serving_layout import Layout

DEGREES = ("tp", "pp", "attn_dp", "cp", "ep", "moe_tp")
_NAMES = {"tp": "tp", "pp": "pp", "dp": "attn_dp", "cp": "cp", "ep": "ep", "etp": "moe_tp"}
_SERVING: dict[str, Any] = {"rich_help_panel": "Serving load and engine"}

Pools = Annotated[
    list[str] | None,
    typer.Option("--pool", help="Workers to estimate: 2xtp4,pp2 or prefill:1xtp4; once per pool.", **_SERVING),
]
Isl = Annotated[int | None, typer.Option(help="Prompt tokens of a request.", **_SERVING)]
Osl = Annotated[int | None, typer.Option(help="Output tokens of a request.", **_SERVING)]
Rate = Annotated[float | None, typer.Option(help="Requests per second, Poisson.", **_SERVING)]
Concurrency = Annotated[int | None, typer.Option(help="Requests always in hand: a closed loop.", **_SERVING)]
TraceFile = Annotated[str | None, typer.Option("--trace", help="Azure CSV, Mooncake JSONL or APEX JSONL.", **_SERVING)]
LengthFile = Annotated[str | None, typer.Option("--lengths", help="File of {isl, osl, weight} records.", **_SERVING)]
Cached = Annotated[float, typer.Option(help="Share of a prompt found in the prefix cache.", **_SERVING)]
Spread = Annotated[float, typer.Option(help="Lengths vary uniformly from 1 - SPREAD to 1 of nominal.", **_SERVING)]
Limit = Annotated[
    str | None, typer.Option(help="Limit at the percentile, such as 500ms.", show_default=False, **_SERVING)
]
Percentile = Annotated[float, typer.Option(help="Percentile at which limits hold.", **_SERVING)]
Engine = Annotated[str, typer.Option(help="vllm, sglang or trtllm.", **_SERVING)]
EngineVersion = Annotated[str, typer.Option(help="Version of the engine (default: newest fitted).", **_SERVING)]
Formats = Annotated[
    str,
    typer.Option(
        "--quantization",
        help="bf16, fp8, fp8-ffn, w8a16, int8, w4a16, nvfp4, nvfp4-experts or mxfp4, +kv8 for an fp8 cache.",
        **_SERVING,
    ),
]
Drafts = Annotated[int | None, typer.Option(help="Speculative tokens per step (MTP).", **_SERVING)]
Acceptance = Annotated[float | None, typer.Option(help="Probability that one is kept.", **_SERVING)]
Imbalance = Annotated[
    float | None,
    typer.Option(help="Load of the fullest expert rank over the mean, as an experts plan gives it.", **_SERVING),
]
ExpertFile = Annotated[
    str | None, typer.Option("--experts", help="Plan of `experts` whose load and reach count.", **_SERVING)
]
Operators = Annotated[str | None, typer.Option(help="aiconfigurator, or a folder of its tables.", **_SERVING)]
Seed = Annotated[int, typer.Option(help="Seed of sampled arrivals and lengths.", **_SERVING)]


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
    from ..inputs import schedule_input, trace_input
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
        return GivenLoad(load_of_trace(trace, options.concurrency), trace, (), (trace_input(options.trace, trace),))
    lengths = _lengths(options)
    hours: tuple[tuple[str, float], ...] = ()
    inputs: tuple[Input, ...] = ()
    rate = options.rate
    if options.hours is not None:
        hours = tuple(read_schedule(options.hours))
        rate = max(each for _, each in hours)
        inputs = (schedule_input(options.hours, hours),)
    load = Load(
        lengths=lengths,
        rate_per_s=rate,
        concurrency=options.concurrency,
        cached=options.cached,
        spread=options.spread,
        seed=options.seed,
    )
    return GivenLoad(load, None, hours, inputs)


_LOAD = ("isl", "osl", "rate", "concurrency", "trace", "lengths", "hours", "cached", "spread", "seed")
_JOB = (
    "percentile", "mode", "objective", "engine", "engine_version", "quantization", "draft_tokens", "acceptance",
    "expert_imbalance", "most_devices", "operators", "seed", *DEGREES,
)  # fmt: skip


def described(params: Mapping[str, Any]) -> tuple[GivenLoad, ServingJob]:
    """The load and the job of a command's options, by name.

    Raises InputError naming the option that is wrong.
    """
    given = given_load(LoadOptions(**{name: params[name] for name in _LOAD if name in params}))
    fields = {name: params[name] for name in _JOB if name in params}
    if params.get("experts") is not None:
        from ..costs.experts import read_expert_load
        from ..inputs import routing_input

        fields["expert_load"] = read_expert_load(params["experts"])
        given = replace(given, inputs=(*given.inputs, routing_input(params["experts"])))
    return given, serving_job(given.load, {name: params[name] for name in ("ttft", "tpot", "e2e")}, **fields)


def parsed_pool(text: str) -> tuple[str, Layout, int]:
    """A pool as written on the command line: `2xtp4,pp2`, `prefill:1xtp4`, `decode:2xdp8,ep8`.

    Experts are divided by width over all ranks of a stage unless ep or etp says otherwise.
    """
    import msgspec

    from ..workload.serving_layout import Layout

    form = re.fullmatch(r"\s*(?:(aggregated|prefill|decode)\s*:)?\s*(?:(\d{1,6})\s*[x×*])?\s*([a-z0-9,\s]+)", text)
    parts = [re.fullmatch(r"([a-z]+)(\d{1,6})", each) for each in re.split(r"[,\s]+", form[3].strip())] if form else []
    degrees = {_NAMES.get(part[1], ""): int(part[2]) for part in parts if part}
    if form is None or "" in degrees or len(degrees) != len(parts):
        raise InputError(f"--pool {text!r} must be like 2xtp4,pp2 or prefill:1xtp4, of {', '.join(_NAMES)}")
    layout = msgspec.convert(degrees, Layout) if "ep" not in degrees or "moe_tp" in degrees else _with_rest(degrees)
    return form[1] or "aggregated", layout, int(form[2] or 1)


def _with_rest(degrees: dict[str, int]) -> Layout:
    from ..workload.serving_layout import Layout

    stage, ep = degrees.get("tp", 1) * degrees.get("attn_dp", 1) * degrees.get("cp", 1), degrees["ep"]
    return Layout(**degrees, moe_tp=stage // ep if ep and stage % ep == 0 else 1)


def serving_job(load: Load, targets: dict[str, str | None], **fields: Any) -> ServingJob:
    """The job; `targets` are durations as given (`500ms`), degrees are texts such as `4` or `2,4`.

    Raises InputError naming the option that is wrong.
    """
    import msgspec

    from ..inputs import with_choices
    from ..workload.serving import ServingJob, Targets
    from .common import parse_duration

    held = {name: integers(fields.pop(name, None), f"--{name.replace('_', '-')}") for name in DEGREES}
    limits = {f"{name}_s": parse_duration(text, f"--{name}") for name, text in targets.items() if text is not None}
    percentile = fields.pop("percentile")
    draft, acceptance = fields.pop("draft_tokens", None), fields.pop("acceptance", None)
    given = {name: value for name, value in fields.items() if value is not None}
    if draft is None and acceptance is not None:
        raise InputError("--acceptance is of speculative tokens: give --draft-tokens with it")
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
        raise InputError(f"serving job: {with_choices(str(error), (ServingJob,))}") from error


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
    for name, value in (("--isl", options.isl), ("--osl", options.osl)):
        if value < 1:
            raise InputError(f"{name} must be at least 1 but got {value}")
    return (LengthBin(isl=options.isl, osl=options.osl),)
