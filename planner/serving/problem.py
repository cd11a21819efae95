"""The problem of a serving job: its cluster, its worker types, and what the search has assumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import msgspec
import numpy as np

from shardwright.models import ModelGraph
from shardwright.topologies import Topology

from ..costs.serving.coefficients import Engine, engine, kernels
from ..costs.serving.communication import fabric
from ..costs.serving.measured import MeasuredOperators, measured_kernels, measured_operators
from ..errors import Infeasible, InputError
from ..workload.experts import ExpertLoad
from ..workload.serving import ServingJob, Trace
from ..workload.serving_layout import Layout, quantization
from .space import layouts
from .stack import Stack
from .steady import Lengths
from .workers import Kind, Setting, Workers, WorkerType, stack_of

SMALL_DOMAIN = 16


@dataclass
class Problem:
    """Everything a search needs; `refused` counts layouts that do not fit in memory.

    `samples` keeps the requests that runs of single workers share, whatever their rate.
    """

    model: ModelGraph
    topology: Topology
    job: ServingJob
    trace: Trace | None
    setting: Setting
    kinds: tuple[Kind, ...]
    types: tuple[WorkerType, ...]
    refused: int
    assumptions: tuple[str, ...]
    simulated: int = field(default=0)
    samples: dict[tuple[int, int, int], Trace] = field(default_factory=dict)

    @cached_property
    def stack(self) -> Stack:
        """The workers as rows."""
        return stack_of(self.types, self.setting.lengths)

    @property
    def supply(self) -> list[int]:
        """Devices of every kind that may be used."""
        most = self.job.most_devices
        return [kind.devices if most is None else min(kind.devices, most) for kind in self.kinds]


def _placed_experts(known: Engine, noted: tuple[str, ...], load: ExpertLoad) -> tuple[Engine, tuple[str, ...]]:
    """The engine with the imbalance and reach of an expert placement, which the notes name."""
    known = msgspec.structs.replace(known, imbalance=load.imbalance)
    noted = (
        *noted,
        f"the fullest expert rank has {load.imbalance:.4g} times the mean load, by the experts plan",
    )
    if load.reach is not None:
        known = msgspec.structs.replace(known, reach=load.reach, reach_ranks=load.ranks)
        noted = (
            *noted,
            f"a token is sent to {load.reach:.4g} of {load.ranks} expert ranks, by the experts plan",
        )
    return known, noted


def problem_of(
    model: ModelGraph, topology: Topology, job: ServingJob, trace: Trace | None, *, even: bool = False
) -> Problem:
    """Read the cluster and build every legal worker; `even` keeps those that fill scale-up domains without a rest.

    Raises InputError for what contradicts itself, Infeasible when no layout fits in memory.
    """
    check_lengths(model, job, trace)
    known, noted = engine(job.engine, job.engine_version)
    if job.expert_imbalance is not None:
        known = msgspec.structs.replace(known, imbalance=job.expert_imbalance)
        noted = (*noted, f"the fullest expert rank has {job.expert_imbalance:g} times the mean load, as given")
    if job.expert_load is not None:
        known, noted = _placed_experts(known, noted, job.expert_load)
    kinds, more = _kinds(topology, job)
    load = job.load
    lengths = Lengths(load.mean_isl, load.mean_osl, load.mean_isl * load.cached)
    longest = load.longest if trace is None else int((trace.prompt_tokens + trace.output_tokens).max())
    setting = Setting(
        model=model,
        quantization=quantization(job.quantization),
        engine=known,
        speculation=job.speculation,
        lengths=lengths,
        longest=longest,
    )
    found: list[WorkerType] = []
    refused: list[float] = []
    for kind in kinds:
        most = kind.devices if job.most_devices is None else min(kind.devices, job.most_devices)
        workers = Workers(setting, kind)
        for layout in layouts(model, kind.fabric, most, lengths.isl, job.constraints):
            if not _packs(layout, kind, even):
                continue
            worker = workers.worker(layout)
            if worker is None:
                refused.append(layout.devices * kind.fabric.accelerator.memory_bytes)
            else:
                found.append(worker)
    if not found:
        raise Infeasible(
            _why_nothing_fits(setting, kinds, refused) if refused else _why_nothing_is_legal(setting, kinds, job)
        )
    notes = (*noted, *more, *model.assumptions, *_format_notes(setting, kinds))
    return Problem(model, topology, job, trace, setting, kinds, tuple(found), len(refused), notes)


def _packs(layout: Layout, kind: Kind, even: bool) -> bool:
    """Whether any number of such workers, beside others of the kind, can be placed without breaking domains up.

    In one domain everything packs; small domains are only ever filled evenly.
    """
    domain = kind.fabric.domain_devices
    if domain % layout.devices == 0 or layout.devices % domain == 0:
        return True
    return not even and (kind.devices <= domain or domain > SMALL_DOMAIN)


def check_lengths(model: ModelGraph, job: ServingJob, trace: Trace | None) -> None:
    """Raise InputError when a request is longer than the model's context."""
    most = model.max_positions
    if most is None:
        return
    if trace is not None:
        from ..workload.serving_traces import check_context

        check_context(trace, most, model.name)
    elif job.load.longest > most:
        worst = max(job.load.lengths, key=lambda each: each.isl + each.osl)
        raise InputError(
            f"load: {worst.isl} prompt and {worst.osl} output tokens are more than the {most} of the context of "
            f"{model.name}"
        )


def _kinds(topology: Topology, job: ServingJob) -> tuple[tuple[Kind, ...], tuple[str, ...]]:
    kinds: list[Kind] = []
    notes: list[str] = []
    for index, device in enumerate(topology.accelerators):
        count = int((topology.device_accelerator == index).sum())
        if not count:
            continue
        figures, assumed = kernels(device.architecture, device.name)
        notes += assumed
        if job.goal == "cost" and device.usd_per_hour is None:
            raise InputError(f"objective cost needs usd_per_hour of {device.name}, which the topology does not give")
        if job.goal == "energy" and device.tdp_watts is None:
            raise InputError(f"objective energy needs tdp_watts of {device.name}, which the topology does not give")
        operators = None
        if job.operators is not None:
            operators = measured_operators(job.operators, device, job.engine)
            figures, versions = measured_kernels(job.operators, device, job.engine, figures)
            notes.append(_operator_note(device.name, operators, versions))
        kind = Kind(index, fabric(topology, index), count, figures, device.usd_per_hour, device.tdp_watts, operators)
        kinds.append(kind)
    return tuple(kinds), tuple(notes)


def _operator_note(device: str, operators: MeasuredOperators | None, versions: dict[str, str]) -> str:
    used = dict(operators.versions if operators else {}) | versions
    if not used:
        return f"measured operators: no table for {device} and this engine, fitted figures are used"
    return f"measured operators of {device}: " + ", ".join(f"{name} {version}" for name, version in used.items())


def _format_notes(setting: Setting, kinds: tuple[Kind, ...]) -> tuple[str, ...]:
    wanted = {setting.quantization.compute, setting.quantization.expert_compute} - {"bf16"}
    notes = []
    for kind in kinds:
        peaks = kind.fabric.accelerator.peak_flops
        missing = sorted(each for each in wanted if each not in peaks)
        if missing:
            name = kind.fabric.accelerator.name
            notes.append(f"{name} has no {' or '.join(missing)} products: weights are widened and computed in bf16")
    return tuple(notes)


def _why_nothing_is_legal(setting: Setting, kinds: tuple[Kind, ...], job: ServingJob) -> str:
    devices = sum(kind.devices for kind in kinds)
    devices = devices if job.most_devices is None else min(devices, job.most_devices)
    none = f"{setting.model.name}: no legal layout on {devices} devices"
    for name in job.constraints.__struct_fields__:
        held = getattr(job.constraints, name)
        if not held:
            continue
        freed = msgspec.structs.replace(job.constraints, **{name: ()})
        found = {
            getattr(layout, name)
            for kind in kinds
            for layout in layouts(setting.model, kind.fabric, min(kind.devices, devices), setting.lengths.isl, freed)
        }
        if found:
            asked, legal = (", ".join(map(str, sorted(values))) for values in (held, found))
            return f"{none} has {name} {asked}: with the rest as given {name} may be {legal}"
    return f"{none} meets all constraints given; free one of them"


def _why_nothing_fits(setting: Setting, kinds: tuple[Kind, ...], refused: list[float]) -> str:
    name = setting.model.name
    from ..costs.serving.shapes import replica_shapes

    weights = replica_shapes(setting.model, Layout(), setting.quantization).weight_bytes
    share = setting.engine.memory_fraction
    need = int(np.ceil(1.1 * weights / (share * max(kind.fabric.accelerator.memory_bytes for kind in kinds))))
    return (
        f"{name}: {weights / 1e9:.0f} GB of {setting.quantization.name} weights and the cache of a request of "
        f"{setting.longest} tokens do not fit in the {max(refused) / 1e9:.0f} GB of device memory of the largest of "
        f"{len(refused)} layouts; "
        f"the nearest change is about {need} devices of the largest kind, or narrower weights"
    )
