"""A row of measurements as one run the planner can predict, or the reason why it cannot."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shardwright.models import ModelError, ModelGraph
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import TopologyError

from .cells import Row, TableError, UnusableError, number, positive, required, text
from .clusters import Cluster, cluster_of, topology_of
from .frameworks import generation
from .shapes import model_of, sequence_of
from .strategies import batch_of, job_of, precision_of, strategy_of, with_overlap


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes measured on one device; `kind` is allocated, reserved, or what the source calls it."""

    measured_bytes: float
    kind: str


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run. `measured_s` is the time of one step of `job.gbs` sequences, None for a memory-only row.

    `group` is what choices of strategy are compared within: model, devices, sequence, batch, precision and task of
    one source, before or after a repair of the machine that changed its speed.
    """

    id: str
    source: str
    model: ModelGraph
    cluster: Cluster
    job: TrainingJob
    strategy: Strategy
    measured_s: float | None
    memory: Memory | None
    assumptions: tuple[str, ...]
    group: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row left out, and why."""

    id: str
    source: str
    reason: str


def read_rows(path: str | Path, needed: Iterable[str] = ()) -> list[Row]:
    """Every row of a CSV file with a header; bytes that are not UTF-8 are replaced.

    Raises TableError when a needed column is missing or the file cannot be read as CSV.
    """
    with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file:
        try:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            missing = [name for name in needed if name not in columns]
            if missing:
                raise TableError(f"{path}: the header lacks {', '.join(missing)}, so this is no table of measured runs")
            return [dict(row) for row in reader]
        except csv.Error as error:
            raise TableError(f"{path}: not readable as CSV: {error}") from None


def runs_of(rows: Iterable[Row], *, timed: bool = True) -> list[Run | Skipped]:
    """Each row as a run or as skipped; with `timed`, rows without a measured time are skipped."""
    result: list[Run | Skipped] = []
    for i, row in enumerate(rows):
        name, source = text(row, "id") or f"row {i + 2}", text(row, "source") or "source not given"
        try:
            run = run_of(row, name, source)
            if timed and run.measured_s is None:
                raise UnusableError("no iteration time or throughput")
            result.append(run)
        except UnusableError as reason:
            result.append(Skipped(name, source, str(reason)))
        except (ShardwrightError, ModelError, TopologyError) as error:
            result.append(Skipped(name, source, f"configuration contradicts itself: {general(str(error))}"))
    return result


def run_of(row: Row, name: str, source: str) -> Run:
    """One row as a run; raises UnusableError, or the planner's own errors when its degrees contradict each other."""
    _ran(row)
    measured = measured_seconds(row)
    memory = _memory(row)
    if measured is None and memory is None:
        raise UnusableError("no iteration time or throughput")
    cluster, from_cluster = cluster_of(row)
    model, from_model = model_of(row)
    framework, from_framework = generation(row)
    strategy, from_strategy = strategy_of(row, framework)
    if strategy.pp * strategy.vpp > model.num_layers + 2:
        raise UnusableError("more stages than layers")
    gbs, part, from_batch = batch_of(row, strategy)
    strategy, from_overlap = with_overlap(strategy, framework, cluster.devices * cluster.domain_nodes, gbs)
    job = job_of(row, framework, gbs)
    topology_of(cluster)
    assumptions = (*from_cluster, *from_model, *from_strategy, *from_batch, *from_overlap)
    return Run(
        id=name,
        source=source,
        model=model,
        cluster=cluster,
        job=job,
        strategy=strategy,
        measured_s=None if measured is None else measured * part,
        memory=memory,
        assumptions=assumptions if from_framework is None else (*assumptions, from_framework),
        group=_group(row, source, model, cluster),
    )


def _group(row: Row, source: str, model: ModelGraph, cluster: Cluster) -> tuple[object, ...]:
    batch = (sequence_of(row), required(row, "gbs"))
    machine = (cluster, text(row, "interconnect"), _repaired(row))
    return (source, model, machine, batch, precision_of(row), text(row, "task"))


def _repaired(row: Row) -> bool | None:
    """Whether a run is as late as the repair of its machine, where its notes give the days of both."""
    days = re.search(r"; (\d\d-\d\d);.*\bfix on (\d\d-\d\d)\b", text(row, "notes"))
    return None if days is None else days[1] >= days[2]


def measured_seconds(row: Row) -> float | None:
    """Seconds of one step: as reported, else from tokens per second and device; None when neither is given."""
    reported = positive(row, "rep_iter_time_s")
    if reported is not None:
        return reported
    rate = positive(row, "derived_tokens_per_s_per_gpu")
    if rate is None:
        return None
    return required(row, "gbs") * sequence_of(row) / (rate * required(row, "num_gpus"))


def _ran(row: Row) -> None:
    if re.search(r"\boom\b", f"{text(row, 'metric')} {text(row, 'value')}", re.I):
        raise UnusableError("did not run: out of memory")


def _memory(row: Row) -> Memory | None:
    gigabytes = number(row, "memory_GB_per_gpu")
    if gigabytes is None or gigabytes <= 0:
        return None
    return Memory(gigabytes * 1e9, text(row, "memory_kind") or "not stated")


def general(message: str) -> str:
    """A message without this row's numbers, so that equal reasons are counted together."""
    return re.sub(r"\d+(\.\d+)?", "#", message)[:120]
