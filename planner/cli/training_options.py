"""Options that `train` and `estimate` share, and the job they describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from .common import writable

if TYPE_CHECKING:
    from ..workload.experts import ExpertLoad
    from ..workload.training import TrainingJob

TECHNIQUES = (
    "context",
    "partition",
    "pipeline_sharding",
    "offload",
    "tp_overlap",
    "expert_overlap",
    "low_communication",
    "vocabulary",
    "uneven",
)
_HOLD = {"rich_help_panel": "Hold to given values, such as 4 or 2,4,8", "show_default": False}

Model = Annotated[str, typer.Argument(help="Catalog name, config.json, or a directory with one.")]
Cluster = Annotated[str, typer.Option(help="Catalog name such as dgx-h100:8, or a topology file.")]
Clusters = Annotated[
    list[str],
    typer.Option("--cluster", help="Catalog name such as dgx-h100:8, or a topology file; several for --pareto."),
]
Measured = Annotated[str | None, typer.Option(help="mpiGraph JSON whose matrix overrides nominal links.")]
Gbs = Annotated[int | None, typer.Option(help="Global batch, in sequences.")]
Seq = Annotated[int | None, typer.Option(help="Sequence length, in tokens.")]
JobFile = Annotated[str | None, typer.Option("--job", help="Training job file (YAML or JSON); options override it.")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16, bf16, fp8 or fp4 (default: bf16).")]
Optimizer = Annotated[str | None, typer.Option(help="adam, adam8bit, sgd, sgd-momentum or muon (default: adam).")]
FrameworkName = Annotated[
    str | None, typer.Option("--framework", help="Software whose fitted figures count (default: megatron-2024).")
]
Trained = Annotated[str | None, typer.Option(help="all, or adapters (LoRA) (default: all).")]
ExpertFile = Annotated[str | None, typer.Option("--experts", help="Plan of `experts` whose load ratio counts.")]
Tokens = Annotated[str | None, typer.Option(help="Token budget, such as 15T: adds days and dollars of it all.")]
Margin = Annotated[float | None, typer.Option(help="Share of device memory that stays free (default: 0.05).")]
Price = Annotated[float | None, typer.Option(help="Dollars per device and hour.")]
Tier = Annotated[str | None, typer.Option(help="Memory to offload to, per device: SIZE@RATE, such as 200GB@50GB/s.")]
Json = Annotated[bool, typer.Option("--json", help="Only the plan as JSON on stdout.")]
Output = Annotated[str | None, typer.Option("--output", "-o", callback=writable, help="Write the plan to this file.")]

Held = Annotated[str | None, typer.Option(**_HOLD)]
HeldSwitch = Annotated[bool | None, typer.Option(**_HOLD)]
HeldWeights = Annotated[str | None, typer.Option(help="Ranks that divide ZeRO 3 weights (ZeRO++).", **_HOLD)]
HeldGradients = Annotated[str | None, typer.Option(help="Ranks that divide gradients (MiCS, three levels).", **_HOLD)]
HeldPeriod = Annotated[str | None, typer.Option(help="Steps between averages of replicas (DiLoCo).", **_HOLD)]
HeldSync = Annotated[str | None, typer.Option(help="all_reduce, overlapped (CO2), pairs (NoLoCo).", **_HOLD)]
HeldVocabulary = Annotated[bool | None, typer.Option(help="Divide embedding and head over pp.", **_HOLD)]
HeldRecompute = Annotated[str | None, typer.Option(help="none, selective, full.", **_HOLD)]
HeldSchedule = Annotated[
    str | None, typer.Option(help="1f1b, interleaved (both tried by default), gpipe, zb-h1, zb-v, dualpipe.", **_HOLD)
]
HeldContext = Annotated[str | None, typer.Option(help="p2p (ring), all_gather, a2a (Ulysses), a2a+p2p.", **_HOLD)]
HeldOffload = Annotated[str | None, typer.Option(help="none, cpu, nvme.", **_HOLD)]
HeldExpertOverlap = Annotated[str | None, typer.Option(help="none, shared, microbatch.", **_HOLD)]


class Place:
    """A model and one cluster."""

    model: Model
    cluster: Cluster
    measured: Measured = None


class Places:
    """A model and one cluster or several."""

    model: Model
    cluster: Clusters
    measured: Measured = None


class Work:
    """The job to train."""

    gbs: Gbs = None
    seq: Seq = None
    job: JobFile = None
    precision: Precision = None
    optimizer: Optimizer = None
    framework: FrameworkName = None
    trained: Trained = None


class Budget:
    """What the job may take."""

    tokens: Tokens = None
    margin: Margin = None
    price: Price = None
    cpu_tier: Tier = None
    nvme_tier: Tier = None


class Holds:
    """Values that a strategy's fields are held to."""

    tp: Held = None
    cp: Held = None
    pp: Held = None
    vpp: Held = None
    dp_replicate: Held = None
    dp_shard: Held = None
    zero: Held = None
    ep: Held = None
    etp: Held = None
    mbs: Held = None
    sp: HeldSwitch = None
    recompute: HeldRecompute = None
    schedule: HeldSchedule = None
    cp_comm: HeldContext = None
    weight_shard: HeldWeights = None
    gradient_shard: HeldGradients = None
    offload_optimizer: HeldOffload = None
    offload_activations: HeldOffload = None
    tp_overlap: HeldSwitch = None
    ep_overlap: HeldExpertOverlap = None
    sync_period: HeldPeriod = None
    sync: HeldSync = None
    vocab_parallel: HeldVocabulary = None


class Result:
    """Where the plan goes."""

    output: Output = None
    json: Json = False


def build_job(job_file: str | None, constraints: Mapping[str, Any], **fields: Any) -> TrainingJob:
    """The job of a file, if any, with the given fields and constraints put over it; None leaves a field alone.

    Raises InputError naming the option or field that is wrong or missing.
    """
    import msgspec

    from ..inputs import load_job, with_choices
    from ..strategy import Constraints
    from ..workload.training import TrainingJob

    given = {name: value for name, value in fields.items() if value not in (None, ())}
    held = {name: value for name, value in constraints.items() if value not in (None, ())}
    base: dict[str, Any] = {"constraints": msgspec.to_builtins(Constraints())}
    if job_file is not None:
        base = msgspec.to_builtins(load_job(job_file))
    base["constraints"] = base["constraints"] | held
    merged = base | given
    for name, option in (("gbs", "--gbs"), ("sequence_length", "--seq")):
        if name not in merged:
            raise InputError(f"{option} is missing: give it, or a --job file with {name}")
    try:
        return msgspec.convert(merged, TrainingJob)
    except msgspec.ValidationError as error:
        raise InputError(f"training job: {with_choices(str(error))}") from error


def job_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job that the options of the same command line name, None where not given."""
    from .common import parse_count

    tokens = given.get("tokens")
    return {
        "gbs": given.get("gbs"),
        "sequence_length": given.get("seq"),
        "precision": given.get("precision"),
        "optimizer": given.get("optimizer"),
        "framework": given.get("framework"),
        "expert_load": expert_load(given.get("experts")),
        "trained": given.get("trained"),
        "token_budget": None if tokens is None else parse_count(tokens),
        "memory_margin": given.get("margin"),
        "usd_per_device_hour": given.get("price"),
        "cpu_tier": tier(given.get("cpu_tier"), "--cpu-tier"),
        "nvme_tier": tier(given.get("nvme_tier"), "--nvme-tier"),
    }


def expert_load(path: str | None) -> ExpertLoad | None:
    """The fullest expert rank of a plan of experts and how far its tokens are sent, if one is named."""
    if path is None:
        return None
    from ..costs.experts import read_expert_load

    return read_expert_load(path)


def constraints(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that options hold a strategy's fields to, as the fields of Constraints take them."""
    from ..strategy import COUNTS, Constraints

    held: dict[str, Any] = {}
    for name in Constraints.__struct_fields__:
        value = given.get(name)
        if isinstance(value, str):
            value = integers(value, f"--{name.replace('_', '-')}") if name in COUNTS else words(value)
        held[name] = value
    return held


def techniques(text: str | None) -> tuple[str, ...]:
    """`context,offload` as a tuple, `all` as every technique."""
    return TECHNIQUES if text == "all" else words(text)


def tier(text: str | None, option: str) -> dict[str, float] | None:
    """`200GB@50GB/s` as the fields of a Tier. Raises InputError naming the option."""
    if text is None:
        return None
    from .common import parse_size

    size, separator, rate = text.partition("@")
    if not separator or not rate.endswith("/s"):
        raise InputError(f"{option} must be SIZE@RATE, such as 200GB@50GB/s, but got {text!r}")
    return {"bytes_per_device": parse_size(size), "bytes_per_s": parse_size(rate.removesuffix("/s"))}


def integers(text: str | None, option: str) -> tuple[int, ...]:
    """`4` or `2,4,8` as counts of at least 1 (0 for --zero). Raises InputError naming the option."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} must be a count or a list such as 2,4,8 but got {text!r}") from None


def words(text: str | None) -> tuple[str, ...]:
    """`none,full` as a tuple."""
    return () if text is None else tuple(part.strip() for part in text.split(","))
