"""What one copy of a model carries within latency targets: the unit a fleet is bought in."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from shardwright.models import ModelGraph
from shardwright.topologies import Topology

from ..errors import Infeasible, input_errors
from ..workload.serving import LengthBin, Load, ServingJob
from ..workload.serving_layout import Layout
from .capacity import capacity
from .planning import only
from .problem import problem_of
from .workers import expected_rate


@dataclass(frozen=True, slots=True)
class Bucket:
    """Requests of about one prompt and one output length."""

    isl: int
    osl: int


def replica_throughput(
    model: ModelGraph, topology: Topology, layout: Layout, bucket: Bucket, job: ServingJob, *, exact: bool = False
) -> float:
    """Requests per second one copy of a layout carries within the job's targets; 0 when it cannot or does not fit.

    The closed form's means by default; `exact` simulates, queueing and percentiles included. Of the job its targets,
    engine, quantization and speculation are used. Raises InputError when the layout does not fit the model.
    """
    load = Load(lengths=(LengthBin(isl=bucket.isl, osl=bucket.osl),), rate_per_s=1.0)
    with input_errors():
        try:
            problem = problem_of(model, topology, only(msgspec.structs.replace(job, load=load), layout), None)
        except Infeasible:
            return 0.0
    worker = next((each for each in problem.types if each.layout == layout), None)
    if worker is None:
        return 0.0
    rate = expected_rate(worker, problem.setting.lengths, job.targets)
    return capacity(problem, worker, "aggregated", rate) if exact else rate
