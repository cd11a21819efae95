"""Mélange's own configuration files (Griggs et al. 2024): throughput tables, prices and a distribution of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from ..errors import InputError
from ..files import read_document, sha256_of
from ..inputs import JOB
from ..plan.base import Input
from ..plan.fleet import Replica, RequestClass
from ..workload.fleet import MOST_NUMBER
from .problem import FleetProblem, Price

MODEL = "model"
RATE = "total_request_rate"
SLICES = "slice_factor"
SUM_TOLERANCE = 1e-4
MOST_SLICES = 10_000
MOST_CELLS = 40_000

Table = tuple[tuple[float, ...], ...]


class GpuInfo(msgspec.Struct, frozen=True):
    """Dollars per hour and the most requests per second within the targets, rows by input and columns by output."""

    cost: float
    tputs: Table


class MelangeConfig(msgspec.Struct, frozen=True):
    """The file as Mélange reads it; other keys are notes of its author and are left alone."""

    gpu_info: dict[str, GpuInfo]
    workload_distribution: Table
    total_request_rate: float | None = None
    slice_factor: int | None = None


def read_melange(
    path: str, rate: float | None = None, slices: int | None = None, *, fractional: bool = False
) -> tuple[FleetProblem, Input]:
    """The fleet problem of a configuration file; `rate` and `slices` replace the file's own, `fractional` ends slices.

    Raises InputError naming the field that is wrong.
    """
    document = read_document(path, "Mélange configuration")
    where = f"Mélange configuration {path}"
    try:
        config = msgspec.convert(document, MelangeConfig)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {error}") from error
    try:
        problem = melange_problem(config, rate, slices, fractional=fractional)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return problem, Input(role="offers", source=path, sha256=sha256_of(document), document=document)


def melange_inputs(
    path: str, rate: float | None = None, slices: int | None = None, *, fractional: bool = False
) -> tuple[FleetProblem, tuple[Input, ...]]:
    """The same with the record of the rate and slices that were planned, beside that of the file."""
    problem, source = read_melange(path, rate, slices, fractional=fractional)
    document = {RATE: source.document[RATE] if rate is None else rate, SLICES: problem.slices}
    asked = Input(role="job", source=JOB, sha256=sha256_of(document), document=document)
    return problem, (source, asked)


def melange_problem(
    config: MelangeConfig, rate: float | None = None, slices: int | None = None, *, fractional: bool = False
) -> FleetProblem:
    """The problem of a configuration. A cell without requests is left out; a zero throughput means cannot serve."""
    rate = config.total_request_rate if rate is None else rate
    slices = config.slice_factor if slices is None else slices
    if rate is None:
        raise InputError("total_request_rate is missing: give it there or by --rate")
    if not 0 < rate <= MOST_NUMBER:
        raise InputError(f"total_request_rate must be a positive number of at most {MOST_NUMBER:g} but is {rate}")
    if fractional:
        slices = None
    elif slices is None:
        raise InputError("slice_factor is missing: give it there or by --slices, or take --fractional")
    elif not 1 <= slices <= MOST_SLICES:
        raise InputError(f"slice_factor must be a whole number from 1 to {MOST_SLICES} but is {slices}")
    _check(config)
    cells = [
        (row, column, share)
        for row, shares in enumerate(config.workload_distribution)
        for column, share in enumerate(shares)
        if share > 0
    ]
    classes = tuple(
        RequestClass(name=f"input {row}, output {column}", model=MODEL, rate_per_s=rate * share)
        for row, column, share in cells
    )
    replicas = tuple(
        Replica(
            name=name,
            model=MODEL,
            gpu=name,
            gpus=1,
            requests_per_s=tuple(info.tputs[row][column] for row, column, _ in cells),
        )
        for name, info in config.gpu_info.items()
    )
    prices = tuple(Price(at, info.cost) for at, info in enumerate(config.gpu_info.values()))
    return FleetProblem(classes, replicas, prices, slices=slices)


def _check(config: MelangeConfig) -> None:
    shape = _shape("workload_distribution", config.workload_distribution)
    if not config.gpu_info:
        raise InputError("gpu_info must name at least one GPU type")
    if shape[0] * shape[1] > MOST_CELLS:
        raise InputError(f"workload_distribution must have at most {MOST_CELLS} cells but has {shape[0] * shape[1]}")
    for name, info in config.gpu_info.items():
        if not 0 <= info.cost <= MOST_NUMBER:
            raise InputError(f"gpu_info.{name}.cost must be a price from 0 to {MOST_NUMBER:g} but is {info.cost:g}")
        found = _shape(f"gpu_info.{name}.tputs", info.tputs)
        if found != shape:
            raise InputError(
                f"gpu_info.{name}.tputs must be {shape[0]} × {shape[1]} like workload_distribution "
                f"but is {found[0]} × {found[1]}"
            )
    total = math.fsum(share for row in config.workload_distribution for share in row)
    if abs(total - 1) > SUM_TOLERANCE:
        raise InputError(f"workload_distribution must sum to 1 but sums to {total:.6g}")


def _shape(name: str, table: Sequence[Sequence[float]]) -> tuple[int, int]:
    widths = {len(row) for row in table}
    if not table or len(widths) != 1 or 0 in widths:
        raise InputError(f"{name} must have rows of equal length")
    for row, values in enumerate(table):
        for column, value in enumerate(values):
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name}[{row}][{column}] must be a number of at least 0 but is {value:g}")
    return len(table), widths.pop()
