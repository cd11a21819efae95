"""Which fleet the command line asks for: Mélange's file, or a job put together from a file and options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..fleet.layer_planning import LayerRequest
    from ..plan.base import Input
    from ..plan.fleet import FleetPlan
    from ..workload.fleet import FleetJob

_JOB_ONLY = (
    "model", "offers", "gpus", "isl", "osl", "lengths", "trace", "hours", "hourly", "quantization", "split", "budget",
    "spare", "region_loss", "error", "current", "start_usd", "least_hours", "what_if",
)  # fmt: skip
_SLICED = ("rate", "slices", "fractional")
_LAYERS_ONLY = ("max_stages", "latency", "batch", "hop")


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """What the command line says, option by option."""

    model: str | None = None
    offers: str | None = None
    gpus: str | None = None
    melange: str | None = None
    rate: float | None = None
    isl: int | None = None
    osl: int | None = None
    lengths: str | None = None
    trace: str | None = None
    hours: str | None = None
    hourly: bool = False
    targets: dict[str, str | None] = field(default_factory=dict)
    percentile: float = 99.0
    quantization: str | None = None
    split: bool = False
    budget: float | None = None
    spare: int | None = None
    region_loss: bool = False
    error: float | None = None
    overload: float = 0.05
    current: str | None = None
    start_usd: float | None = None
    least_hours: int | None = None
    what_if: tuple[str, ...] = ()
    slices: int | None = None
    fractional: bool = False
    helix: str | None = None
    cluster: str | None = None
    place: bool = False
    max_stages: int | None = None
    latency: str | None = None
    batch: int | None = None
    hop: str | None = None


def fleet_plan(options: FleetOptions) -> FleetPlan:
    """The plan of the mode that the options choose. Raises InputError when they choose none or contradict."""
    if options.melange is not None and options.helix is not None:
        raise InputError("give --melange or --helix, not both")
    if options.melange is not None:
        return _melange(options)
    if options.helix is not None:
        return _helix(options)
    if options.place or options.cluster is not None:
        return _placed(options)
    from ..fleet.job import plan_fleet
    from ..fleet.what_if import parse_what_if

    _refuse_layer_options(options, "a fleet to rent")
    job, sources = fleet_job(options)
    return plan_fleet(job, sources, tuple(parse_what_if(text) for text in options.what_if))


def refuse_overwriting(current: str | None, output: str | None) -> None:
    """Raise InputError where the plan would replace the one that it starts from, and so be stale at once."""
    from pathlib import Path

    if current is not None and output is not None and Path(current).resolve() == Path(output).resolve():
        raise InputError(
            f"--output {output}: is the plan of --current, which the new plan starts from: name another file"
        )


def _refuse_job_options(options: FleetOptions, mode: str, allowed: tuple[str, ...] = ()) -> None:
    given = _given(options, tuple(name for name in _JOB_ONLY if name not in allowed))
    given += [name.removesuffix("_s") for name, text in options.targets.items() if text]
    if given:
        raise InputError(f"{mode} has its own load and machines: leave {given[0].replace('_', '-')} out")


def _refuse_sliced(options: FleetOptions, mode: str) -> None:
    given = _given(options, _SLICED)
    if given:
        raise InputError(f"{mode} has no request classes to route: leave {given[0]} out")


def _refuse_layer_options(options: FleetOptions, mode: str) -> None:
    given = _given(options, _LAYERS_ONLY)
    if given:
        raise InputError(f"{mode} places no layers on given nodes: leave {given[0].replace('_', '-')} out")


def _given(options: FleetOptions, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if getattr(options, name) not in (None, False, ())]


def _melange(options: FleetOptions) -> FleetPlan:
    from ..fleet.melange import melange_inputs
    from ..fleet.planning import plan_problem

    assert options.melange is not None
    _refuse_job_options(options, "--melange")
    _refuse_layer_options(options, "--melange")
    if options.fractional and options.slices is not None:
        raise InputError("--fractional has no slices: leave --slices out")
    problem, sources = melange_inputs(options.melange, options.rate, options.slices, fractional=options.fractional)
    return plan_problem(problem, sources)


def _helix(options: FleetOptions) -> FleetPlan:
    from ..fleet.layer_case import read_helix
    from ..fleet.layer_planning import plan_layers

    assert options.helix is not None
    _refuse_job_options(options, "--helix")
    _refuse_sliced(options, "--helix")
    return plan_layers(read_helix(options.helix), _layer_request(options, None))


def _placed(options: FleetOptions) -> FleetPlan:
    from ..fleet.layer_cluster import ChainUse, cluster_of
    from ..fleet.layer_planning import plan_layers
    from ..inputs import load_model, load_topology

    if options.model is None or options.cluster is None or not options.place:
        raise InputError("a placement needs a model, --cluster and --place: fleet MODEL --cluster CLUSTER --place")
    if options.isl is None or options.osl is None:
        raise InputError("a placement needs the mean lengths of the requests: give --isl and --osl")
    _refuse_job_options(options, "--place", ("model", "isl", "osl", "quantization"))
    _refuse_sliced(options, "--place")
    (model, model_source), (topology, topology_source) = load_model(options.model), load_topology(options.cluster)
    use = ChainUse(options.isl, options.osl, options.quantization or "bf16")
    cluster, notes = cluster_of(model, topology, use)
    request = _layer_request(options, cluster.hop_s)
    return plan_layers(cluster.case((model_source, topology_source)), request, cluster.simulated, notes)


def _layer_request(options: FleetOptions, hop_s: float | None) -> LayerRequest:
    """The caps asked for; the time of a link is the option's, else the cluster's, else the usual one."""
    from ..fleet.layer_planning import LayerRequest
    from .common import parse_duration

    defaults = LayerRequest()
    hop_s = defaults.hop_s if hop_s is None else hop_s
    return LayerRequest(
        max_stages=options.max_stages,
        latency_s=None if options.latency is None else parse_duration(options.latency),
        batch=defaults.batch if options.batch is None else options.batch,
        hop_s=hop_s if options.hop is None else parse_duration(options.hop),
    )


def fleet_job(options: FleetOptions) -> tuple[FleetJob, tuple[Input, ...]]:
    """The job of the file, if any, with the options put over it. Raises InputError naming what is wrong or missing."""
    import msgspec

    from ..inputs import with_choices
    from ..workload.fleet import FleetJob, Offer, ThroughputError

    document, sources = _file(options)
    if options.gpus is not None:
        document["offers"] = _catalog_offers(options.gpus)
    if "offers" not in document:
        raise InputError(
            "nothing is offered: give --offers FILE, --gpus a10g,a100-80gb, --melange CONFIG.json or --helix CASE.json"
        )
    sources += _served(options, document)
    _demands(options, document)
    sources += _running(options, document)
    where = f"fleet job {options.offers}: " if options.offers is not None else "fleet job: "
    try:
        return msgspec.convert(document, FleetJob), sources
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"{where}{with_choices(str(error), (FleetJob, Offer, ThroughputError))}") from error


def _file(options: FleetOptions) -> tuple[dict[str, Any], tuple[Input, ...]]:
    from ..files import read_document, sha256_of
    from ..plan.base import Input

    if options.offers is None:
        return {}, ()
    document = read_document(options.offers, "fleet job")
    if not isinstance(document, dict):
        raise InputError(f"fleet job {options.offers}: must be a mapping with offers")
    source = Input(role="offers", source=options.offers, sha256=sha256_of(document), document=document)
    return dict(document), (source,)


def _catalog_offers(text: str) -> list[dict[str, Any]]:
    from shardwright import topologies

    from ..errors import input_errors

    offers = []
    for name in (part.strip() for part in text.split(",")):
        if not name:
            raise InputError(f"--gpus {text!r}: a name is empty; separate GPU types by single commas")
        with input_errors():
            device = topologies.accelerator(name)
        if device.usd_per_hour is None:
            raise InputError(f"--gpus: the catalog has no price for {device.name}: give an --offers file")
        offers.append({"gpu": name, "usd_per_hour": device.usd_per_hour})
    return offers


def _served(options: FleetOptions, document: dict[str, Any]) -> tuple[Input, ...]:
    """Put the model and load of the options into the document."""
    from .common import parse_duration
    from .fleet_load import lengths_and_hours

    asks = [options.isl, options.osl, options.lengths, options.trace, options.hours, options.quantization]
    limits = {name: parse_duration(text) for name, text in options.targets.items() if text is not None}
    if options.model is None:
        if any(each is not None for each in asks) or limits:
            raise InputError("the load of options belongs to a model: name it as the first argument")
        if "models" not in document:
            raise InputError("no model: name one as the first argument, or give models in the --offers file")
        if options.rate is not None:
            raise InputError("--rate belongs to a model: name it as the first argument")
        return ()
    load = lengths_and_hours(options)
    rate = load.rate if options.rate is None else options.rate
    if rate is None and options.budget is None:
        raise InputError("--rate is missing: give it, a --trace or --hours, or a --budget to carry most for")
    if rate is None:
        document["objective"] = "throughput"
    served: dict[str, Any] = {
        "model": options.model,
        "rate_per_s": 1.0 if rate is None else rate,
        "lengths": load.lengths,
        "targets": limits | {"percentile": options.percentile},
    }
    if options.quantization is not None:
        served["formats"] = [part.strip() for part in options.quantization.split(",")]
    document["models"] = [served]
    if load.hours:
        document["hours"] = [list(hour) for hour in load.hours]
    return load.sources


def _demands(options: FleetOptions, document: dict[str, Any]) -> None:
    """Put the demands of the options over those of the document."""
    if options.budget is not None:
        document["budget_usd_per_hour"] = options.budget
    failures = {"replicas": options.spare} if options.spare is not None else {}
    failures |= {"region": True} if options.region_loss else {}
    if failures:
        document["failures"] = dict(document.get("failures") or {}) | failures
    if options.error is not None:
        document["error"] = {"spread": options.error, "overload": options.overload}
    switching = {"usd_per_start": options.start_usd, "least_hours": options.least_hours}
    given = {name: value for name, value in switching.items() if value is not None}
    if given:
        document["switching"] = dict(document.get("switching") or {}) | given
    if options.split:
        document["disaggregated"] = True
    if options.fractional and options.slices is not None:
        raise InputError("--fractional has no slices: leave --slices out")
    if options.fractional or options.slices is not None:
        document["slices"] = options.slices


def _running(options: FleetOptions, document: dict[str, Any]) -> tuple[Input, ...]:
    """The fleet of a plan as the one that runs now. Raises InvalidPlan where the plan does not hold."""
    from ..errors import InvalidPlan
    from ..files import read_document, sha256_of
    from ..plan.base import Input
    from ..plan.fleet import FleetPlan
    from ..plan.io import load
    from ..validate import validate_plan

    if options.current is None:
        return ()
    plan = load(options.current)
    if not isinstance(plan, FleetPlan) or plan.rental is None:
        raise InputError(f"--current {options.current}: is no plan of a fleet to rent")
    problems = validate_plan(plan)
    if problems:
        raise InvalidPlan(
            f"--current {options.current}: {problems[0]}; make the plan anew, or list what runs as current in --offers"
        )
    replicas = plan.rental.replicas
    document["current"] = [
        {
            "gpu": replicas[each.replica].gpu, "gpus": replicas[each.replica].gpus, "count": each.count * each.copies,
            "layout": replicas[each.replica].layout, "model": replicas[each.replica].model, "region": each.region,
            "tier": each.tier,
        }
        for each in plan.rental.rented
    ]  # fmt: skip
    return (Input(role="job", source=options.current, sha256=sha256_of(read_document(options.current, "plan"))),)
