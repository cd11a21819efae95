"""From what a user names (a catalog entry or a file) to a model or topology, with the record of where it came from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shardwright import models, topologies

from .errors import InputError, input_errors
from .files import read_document, sha256_of
from .plan.base import Input
from .workload.training import TrainingJob


def load_model(text: str) -> tuple[models.ModelGraph, Input]:
    """A catalog name, a Hugging Face config.json, or a directory that holds one.

    Raises InputError when it is none of these or the configuration is refused.
    """
    path = Path(text)
    if path.is_dir():
        path = path / "config.json"
    with input_errors():
        if not _names_a_file(text):
            graph = models.model(text)
            return graph, Input(role="model", source=f"catalog:{text}", sha256=sha256_of(msgspec.to_builtins(graph)))
        document = read_document(path, "model config")
        name = path.parent.name if path.name == "config.json" and path.parent.name else path.stem
        try:
            graph = models.read_config(document, name=name)
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
    source = text if _names_a_file(text) else f"catalog:{text}"
    if measured is not None:
        matrix = read_document(measured, "measured bandwidths")
        try:
            topology = topology.with_measured(topologies.read_mpigraph(matrix))
        except topologies.TopologyError as error:
            raise InputError(f"measured bandwidths {measured}: {error}") from error
        source = f"{source}+{measured}"
    document = topology.document
    return topology, Input(role="topology", source=source, sha256=sha256_of(document), document=document)


def load_job(path: str) -> TrainingJob:
    """A training job file (YAML or JSON) with the fields of TrainingJob. Raises InputError naming the field."""
    document = read_document(path, "training job")
    try:
        return msgspec.convert(document, TrainingJob)
    except (msgspec.ValidationError, InputError) as error:
        raise InputError(f"training job {path}: {error}") from error


def _names_a_file(text: str) -> bool:
    return "/" in text or text.endswith((".json", ".yaml", ".yml")) or Path(text).exists()
