"""From what a user names (a catalog entry or a file) to a model or topology, with the record of where it came from."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from shardwright import models, topologies

from .errors import InputError, InvalidPlan, input_errors
from .files import is_file, is_folder, read_document, sha256_of, sha256_of_file
from .plan.base import Input, PlanBase
from .strategy import Constraints
from .workload.serving import Trace
from .workload.serving_traces import read_schedule, read_trace
from .workload.training import TrainingJob

CATALOG = "catalog:"
MEMORY = "memory:"
JOB = MEMORY + "job"
MEASURED = " + "


def load_model(text: str) -> tuple[models.ModelGraph, Input]:
    """A catalog name, a Hugging Face config.json, or a directory that holds one.

    Raises InputError when it is none of these or the configuration is refused.
    """
    with input_errors():
        if not _names_a_file(text) and not is_file(f"{text}/config.json"):
            config = models.catalog_entry(text).config
            record = Input(role="model", source=CATALOG + text, sha256=sha256_of(config), document=config)
            return models.model(text), record
        path = Path(text) / "config.json" if is_folder(text) else Path(text)
        document = read_document(path, "model config")
        try:
            graph = models.read_config(document, name=_model_name(str(path)))
        except models.ModelError as error:
            raise InputError(f"model config {path}: {error}") from error
    return graph, Input(role="model", source=str(path), sha256=sha256_of(document), document=document)


def load_topology(text: str, measured: str | None = None) -> tuple[topologies.Topology, Input]:
    """A catalog cluster such as `dgx-h100:8`, or a topology file; `measured` adds an mpiGraph matrix to it.

    Raises InputError when it is neither or the description is refused.
    """
    with input_errors():
        if _names_a_file(text):
            document = read_document(text, "topology")
            try:
                topology = topologies.parse_topology(document)
            except topologies.TopologyError as error:
                raise InputError(f"topology {text}: {error}") from error
        else:
            topology = topologies.cluster(text)
    source = text if _names_a_file(text) else CATALOG + text
    if measured is not None:
        matrix = read_document(measured, "measured bandwidths")
        try:
            topology = topology.with_measured(topologies.read_mpigraph(matrix))
        except topologies.TopologyError as error:
            raise InputError(f"measured bandwidths {measured}: {error}") from error
        source = source + MEASURED + measured
    document = topology.document
    return topology, Input(role="topology", source=source, sha256=sha256_of(document), document=document)


def load_job(path: str) -> TrainingJob:
    """A training job file (YAML or JSON) with the fields of TrainingJob, where a constraint may be one value instead of
    a list. Raises InputError naming the field."""
    document = read_document(path, "training job")
    if isinstance(document, dict) and isinstance(document.get("constraints"), dict):
        held = {name: _listed(name, value) for name, value in document["constraints"].items()}
        document = document | {"constraints": held}
    try:
        return msgspec.convert(document, TrainingJob)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"training job {path}: {with_choices(str(error))}") from error


def with_choices(message: str, records: tuple[type, ...] = (Constraints, TrainingJob)) -> str:
    """msgspec's refusal of a word in one of these records, with the words that the field takes."""
    found = re.search(r"Invalid enum value .* at `\$\.(?:[\w\[\].]*\.)?(\w+)(?:\[[^\]]*\])*`", message)
    kinds = {name: kind for record in records for name, kind in get_type_hints(record).items()}
    if found is None or found[1] not in kinds:
        return message
    return f"{message}: must be one of {', '.join(_words(kinds[found[1]]))}"


def _words(kind: Any) -> list[str]:
    return [word for each in get_args(kind) for word in ([each] if isinstance(each, str) else _words(each))]


def _listed(name: str, value: object) -> object:
    several = isinstance(getattr(Constraints(), name, None), tuple)
    return [value] if several and isinstance(value, int | str) and not isinstance(value, bool) else value


def routing_input(path: str) -> Input:
    """The record of a routing file, hashed as it lies there: traces are too large to carry in a plan."""
    return Input(role="routing", source=path, sha256=sha256_of_file(path))


def model_input(graph: models.ModelGraph) -> Input:
    """The record of a model graph made in memory; the graph itself is the document."""
    document = {"graph": msgspec.to_builtins(graph)}
    return Input(role="model", source=MEMORY + graph.name, sha256=sha256_of(document), document=document)


def topology_input(topology: topologies.Topology) -> Input:
    """The record of a topology made in memory."""
    document = topology.document
    return Input(role="topology", source=MEMORY + topology.name, sha256=sha256_of(document), document=document)


def job_input(job: msgspec.Struct) -> Input:
    """The record of a job as it was planned: what files and options came to."""
    document = msgspec.to_builtins(job)
    return Input(role="job", source=JOB, sha256=sha256_of(document), document=document)


def trace_input(path: str, trace: Trace) -> Input:
    """The record of a trace, hashed by what was read from it: it is too large to carry."""
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.cached_tokens)
    return Input(role="load", source=path, sha256=sha256_of([column.tolist() for column in columns]))


def schedule_input(path: str, rows: Sequence[tuple[str, float]]) -> Input:
    """The record of hours and their rates."""
    document = [list(row) for row in rows]
    return Input(role="load", source=path, sha256=sha256_of(document), document=document)


def restored_model(plan: PlanBase, text: str | None = None) -> models.ModelGraph:
    """The model a plan was made for, rebuilt from the plan; of several, the one that `load_model` had from a text.

    Raises InvalidPlan when it does not match its hash.
    """
    record = _input_of(plan, "model", {CATALOG + text, text, f"{text}/config.json"} if text else None)
    _same_content(record, record.document)
    try:
        if record.source.startswith(MEMORY) and isinstance(record.document, dict):
            return msgspec.convert(record.document.get("graph"), models.ModelGraph)
        return models.read_config(record.document, name=_model_name(record.source))
    except (models.ModelError, msgspec.ValidationError) as error:
        raise InvalidPlan(f"plan: the model in inputs is refused: {error}") from error


def restored_topology(plan: PlanBase) -> topologies.Topology:
    """The topology a plan was made for, rebuilt from the plan. Raises InvalidPlan when it does not match its hash."""
    record = _input_of(plan, "topology")
    _same_content(record, record.document)
    try:
        return topologies.parse_topology(record.document)
    except topologies.TopologyError as error:
        raise InvalidPlan(f"plan: the topology in inputs is refused: {error}") from error


def stale_inputs(plan: PlanBase) -> list[str]:
    """One sentence for every input file or catalog entry that is no longer what the plan was made from.

    A file that is not on this machine is not stale: the plan carries its content.
    """
    found = []
    for record in plan.inputs:
        try:
            current = _current(record)
        except InputError as error:
            found.append(f"{record.role} {record.source} has changed since the plan was made: {error}")
            continue
        if current is not None and current.sha256 != record.sha256:
            found.append(f"{record.role} {record.source} has changed since the plan was made")
    return found


def changed_documents(plan: PlanBase) -> list[str]:
    """One sentence for every document in the plan that is not the one its hash names."""
    return [
        f"inputs: the {record.role} {record.source} is not the one the plan was made from"
        for record in plan.inputs
        if record.document is not None and sha256_of(record.document) != record.sha256
    ]


@functools.cache
def catalog_gpu(gpu: str) -> tuple[str, float | None]:
    """The catalog's name of a GPU type and its watts, or the name as given where the catalog does not know it."""
    try:
        device = topologies.accelerator(gpu)
    except topologies.TopologyError:
        return gpu, None
    return device.name, device.tdp_watts


def accelerator_vendor(gpu: str) -> str:
    """Who makes a GPU type of the catalog. Raises InputError for one that it does not know."""
    with input_errors():
        return topologies.accelerator(gpu).vendor


def _current(record: Input) -> Input | None:
    if record.source.startswith(MEMORY):
        return None
    source, _, measured = record.source.partition(MEASURED)
    name = source.removeprefix(CATALOG)
    files = [measured] if source.startswith(CATALOG) else [source, measured]
    if not all(is_file(path) for path in files if path):
        return None
    if record.role == "model":
        return load_model(name)[1]
    if record.role == "topology":
        return load_topology(name, measured or None)[1]
    if record.role == "routing":
        return routing_input(source)
    if record.role == "load" and not source.endswith((".json", ".yaml", ".yml")):
        return trace_input(source, read_trace(source)) if record.document is None else _schedule(source)
    return Input(role=record.role, source=source, sha256=sha256_of(read_document(source, record.role)))


def _schedule(source: str) -> Input:
    return schedule_input(source, read_schedule(source))


def _input_of(plan: PlanBase, role: str, sources: set[str] | None = None) -> Input:
    for record in plan.inputs:
        if record.role == role and (sources is None or record.source in sources):
            return record
    raise InvalidPlan(f"plan: inputs has no {role}")


def _same_content(record: Input, document: object) -> None:
    if sha256_of(document) != record.sha256:
        raise InvalidPlan(f"plan: the {record.role} {record.source} is not the one the plan was made from")


def _model_name(source: str) -> str:
    if source.startswith(CATALOG):
        return source.removeprefix(CATALOG)
    path = Path(source)
    return path.parent.name if path.name == "config.json" and path.parent.name else path.stem


def _names_a_file(text: str) -> bool:
    if "/" in text or text.endswith((".json", ".yaml", ".yml")):
        return True
    return is_file(text)
