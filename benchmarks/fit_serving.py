"""Fit the figures of planner/costs/serving/coefficients.json to measured serving rows.

    python -m benchmarks.fit_serving FILE.csv [--half even|odd] [--without SOURCE] [--rounds N] [--output FILE.json]

The start is benchmarks/serving_start.json: kernel figures read off AIConfigurator's operator tables
(aiconfigurator-core 0.12.0, Apache-2.0: gemm, attention, moe and custom all-reduce tables by accelerator and engine),
engine figures judged.
What is minimized is the sum of absolute logarithmic errors plus PRIOR times the squared logarithm of every figure over
its start, so that a figure that few rows speak to stays where the operator tables put it (iteratively reweighted least
squares, Gauss-Newton on the simulator by differences).

There is one set of figures per accelerator architecture and per engine generation; nothing belongs to a row, a model
or a source. `--half` fits on one half of the workloads (model, prompt and output length; by CRC-32) for a report on
the other; `--without` leaves a source out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.serving_cases import Case, case_of
from benchmarks.serving_models import SkippedError
from benchmarks.serving_prediction import costs_key, predict
from shardwright.planner.costs.serving.coefficients import Engine, Kernels, generation
from shardwright.planner.costs.serving.step import Machine

START = Path(__file__).with_name("serving_start.json")
TARGET = Path(__file__).parent.parent / "planner" / "costs" / "serving" / "coefficients.json"
WEIGHTS = {"tpot": 1.0, "ttft": 0.5, "throughput": 1.0}
PRIOR = 3.0
EFFORT = 0.25  # of the requests, for derivatives
FRESH = 2  # rounds that derivatives are kept for
KERNEL_FIGURES = (
    "compute.bf16",
    "compute.fp8",
    "compute.fp4",
    "gemm_start_s.bf16",
    "gemm_start_s.fp8",
    "gemm_start_s.fp4",
    "memory",
    "prefill_attention",
    "decode_attention",
    "decode_attention_fp8",
    "decode_attention_compute",
    "attention_start_s",
    "expert_compute.bf16",
    "expert_compute.fp8",
    "expert_compute.fp4",
    "expert_memory",
    "expert_start_s.bf16",
    "expert_start_s.fp8",
    "expert_start_s.fp4",
    "small_reduce_s",
    "library_reduce",
)
ENGINE_FIGURES = (
    "step_s",
    "sequence_s",
    "prefill_s",
    "prompt_s",
    "launch_s",
    "request_s",
    "start",
    "gemm",
    "attention",
    "read",
    "grouped",
    "expert",
    "expert_work",
    "reduce",
    "imbalance",
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the file: an architecture's or an engine generation's."""

    owner: str
    name: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_serving", description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--half", choices=("even", "odd"))
    parser.add_argument("--without", default="")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cases", type=int, default=900)
    parser.add_argument("--start", default=str(START))
    parser.add_argument("--resume", help="a fitted file to go on from; the start still is what figures are held to")
    parser.add_argument("--output", default=str(TARGET))
    given = parser.parse_args(arguments)
    cases = chosen_cases(given.file, given.half, given.without, given.cases)
    document = json.loads(Path(given.start).read_text())
    resumed = json.loads(Path(given.resume).read_text()) if given.resume else document
    fitted = fit(document, cases, given.rounds, resumed)
    Path(given.output).write_text(json.dumps(fitted, indent=1) + "\n")
    return 0


def half_of(case: Case) -> str:
    """Which half of the workloads a case belongs to."""
    key = f"{case.model_name}/{case.isl:g}/{case.osl:g}"
    return "odd" if zlib.crc32(key.encode()) % 2 else "even"


def chosen_cases(path: str, half: str | None, without: str, limit: int) -> list[Case]:
    """Verified cases without speculative decoding, thinned evenly to about `limit`, no engine generation left out."""
    with Path(path).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = []
    for row in rows:
        try:
            case = case_of(row)
        except SkippedError:
            continue
        usable = case.verified and not case.speculative and (not without or without not in case.source)
        if usable and (half is None or half_of(case) == half):
            found.append(case)
    groups: dict[tuple[str, ...], list[Case]] = {}
    for case in found:
        key = (
            case.engine,
            case.engine_version,
            case.accelerator,
            case.model_name,
            case.quantization.name,
            case.load_kind,
        )
        groups.setdefault(key, []).append(case)
    share = min(1.0, limit / max(len(found), 1))
    kept: list[Case] = []
    for group in groups.values():
        number = max(1, round(len(group) * share))
        places = np.unique(np.linspace(0, len(group) - 1, number).astype(int))
        kept += [group[place] for place in places]
    return kept


def fit(document: dict[str, Any], cases: list[Case], rounds: int, resumed: dict[str, Any]) -> dict[str, Any]:
    """The document with its figures moved, from those of `resumed`, to where the cases want them."""
    problem = _Problem(document, cases)
    problem.resume(resumed)
    for turn in range(rounds):
        before = problem.loss()
        problem.step(fresh=turn % FRESH == 0)
        print(f"round {turn + 1}: {before:.4f} -> {problem.loss():.4f}", file=sys.stderr, flush=True)
    return problem.document()


class _Problem:
    def __init__(self, document: dict[str, Any], cases: list[Case]) -> None:
        self.kernels = {name: msgspec.convert(value, Kernels) for name, value in document["architectures"].items()}
        self.engines = {value["generation"]: msgspec.convert(value, Engine) for value in document["engines"]}
        self.relatives = document["relatives"]
        self.hosts = dict(document["hosts"])
        self.original = document
        self.cases = cases
        self.owners = [self._owners(case) for case in cases]
        self.figures = self._figures()
        self.start = np.array([np.log(self._read(each)) for each in self.figures])
        self.point = self.start.copy()
        self.slopes: dict[int, np.ndarray] = {}
        self.residuals, self.weights = self._residuals(range(len(cases)))

    def resume(self, document: dict[str, Any]) -> None:
        """Go on from the figures of an earlier fit."""
        self.kernels = {name: msgspec.convert(value, Kernels) for name, value in document["architectures"].items()}
        self.engines = {value["generation"]: msgspec.convert(value, Engine) for value in document["engines"]}
        self.hosts = dict(document["hosts"])
        self._move(np.array([np.log(self._read(each)) for each in self.figures]))

    def _owners(self, case: Case) -> tuple[str, str, str]:
        device = case.fabric.accelerator
        relatives = self.relatives
        architecture = device.name if device.name in self.kernels else device.architecture
        if architecture not in self.kernels:
            architecture = relatives.get(device.name) or relatives.get(device.architecture, relatives["*"])
        known, _ = generation(list(self.engines.values()), case.engine, case.engine_version)
        host = next((name for name in self.hosts if device.name.startswith(name)), "")
        return architecture, known.generation, host

    def _figures(self) -> list[Figure]:
        used = {owner for pair in self.owners for owner in pair}
        found = []
        for owner, names in ((self.kernels, KERNEL_FIGURES), (self.engines, ENGINE_FIGURES)):
            for each in owner:
                found += [Figure(each, name) for name in names if each in used and self._has(each, name)]
        return found + [Figure(name, "host") for name in self.hosts if name in used]

    def _has(self, owner: str, name: str) -> bool:
        record: Any = self.kernels.get(owner) or self.engines[owner]
        head, _, key = name.partition(".")
        value = getattr(record, head)
        value = value.get(key, 0.0) if key else value
        return bool(value > 0)

    def _read(self, figure: Figure) -> float:
        if figure.name == "host":
            return float(self.hosts[figure.owner])
        record: Any = self.kernels.get(figure.owner) or self.engines[figure.owner]
        head, _, key = figure.name.partition(".")
        value = getattr(record, head)
        return float(value[key] if key else value)

    def _write(self, figure: Figure, value: float) -> None:
        if figure.name == "host":
            self.hosts[figure.owner] = value
            return
        store: Any = self.kernels if figure.owner in self.kernels else self.engines
        record = store[figure.owner]
        head, _, key = figure.name.partition(".")
        new = {**getattr(record, head), key: value} if key else value
        store[figure.owner] = msgspec.structs.replace(record, **{head: new})

    def _residuals(self, places: Iterable[int]) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
        found: dict[int, list[float]] = {}
        weights: dict[int, list[float]] = {}
        for place in places:
            case = self.cases[place]
            try:
                predicted = predict(case, self._machine(place))
            except SkippedError:
                continue
            metrics = [each for each in predicted if not (each == "throughput" and "tpot" in predicted)]
            found[place] = [float(np.log(predicted[each] / case.metrics[each])) for each in metrics]
            weights[place] = [WEIGHTS[each] for each in metrics]
        return found, weights

    def _machine(self, place: int) -> Machine:
        architecture, name, host = self.owners[place]
        links = self.cases[place].fabric
        return Machine(links, self.kernels[architecture], self.engines[name], self.hosts.get(host, 1.0))

    def _logs(self, place: int) -> np.ndarray:
        """Logarithms of the predictions of a case from a reduced number of requests, in the order of its residuals."""
        predicted = predict(self.cases[place], self._machine(place), EFFORT)
        metrics = [each for each in predicted if not (each == "throughput" and "tpot" in predicted)]
        return np.log([predicted[each] for each in metrics])

    def _slopes(self, place: int) -> np.ndarray:
        """How the residuals of a case move with the logarithm of every figure; figures it does not use are left out."""
        case, size = self.cases[place], len(self.residuals[place])
        slopes = np.zeros((size, len(self.figures)))
        key, base = costs_key(case, self._machine(place)), self._logs(place)
        for column, figure in enumerate(self.figures):
            if figure.owner not in self.owners[place]:
                continue
            value = self._read(figure)
            self._write(figure, value * 1.04)
            try:
                if costs_key(case, self._machine(place)) != key:
                    slopes[:, column] = (self._logs(place) - base) / np.log(1.04)
            except SkippedError:
                pass
            self._write(figure, value)
        return slopes

    def loss(self) -> float:
        """Weighted mean absolute logarithmic error."""
        total = sum(abs(r) * w for p in self.residuals for r, w in zip(self.residuals[p], self.weights[p], strict=True))
        return total / sum(w for p in self.residuals for w in self.weights[p])

    def step(self, fresh: bool) -> None:
        """One Gauss-Newton step, halved until it helps; derivatives are taken anew when `fresh`."""
        places = sorted(self.residuals)
        r = np.concatenate([self.residuals[place] for place in places])
        w = np.concatenate([self.weights[place] for place in places]) / np.maximum(np.abs(r), 0.03)
        for place in places:
            if fresh or place not in self.slopes:
                self.slopes[place] = self._slopes(place)
        jacobian = np.concatenate([self.slopes[place] for place in places])
        normal = jacobian.T @ (w[:, None] * jacobian) + 2 * PRIOR * np.eye(len(self.figures))
        gradient = jacobian.T @ (w * r) + 2 * PRIOR * (self.point - self.start)
        move = np.clip(-np.linalg.solve(normal, gradient), -0.4, 0.4)
        before = self._objective()
        origin = self.point.copy()
        for scale in (1.0, 0.5, 0.25, 0.1):
            self._move(origin + scale * move)
            if self._objective() < before:
                return
        self._move(origin)

    def _move(self, point: np.ndarray) -> None:
        for figure, value in zip(self.figures, point, strict=True):
            limit = 1.0 if self._is_share(figure) else np.inf
            least = 1.0 if figure.name == "imbalance" else 0.0
            self._write(figure, max(least, min(float(np.exp(value)), limit)))
        self.point = np.array([np.log(self._read(each)) for each in self.figures])
        self.residuals, self.weights = self._residuals(range(len(self.cases)))

    def _is_share(self, figure: Figure) -> bool:
        return figure.owner in self.kernels and not figure.name.split(".")[0].endswith("_s")

    def _objective(self) -> float:
        errors = sum(
            abs(r) * w for p in self.residuals for r, w in zip(self.residuals[p], self.weights[p], strict=True)
        )
        return float(errors + PRIOR * np.sum((self.point - self.start) ** 2))

    def document(self) -> dict[str, Any]:
        """The file with the figures as they are now, to four digits."""
        document = dict(self.original)
        document["hosts"] = _rounded(self.hosts)
        document["architectures"] = {name: _rounded(msgspec.to_builtins(each)) for name, each in self.kernels.items()}
        document["engines"] = [_rounded(msgspec.to_builtins(each)) for each in self.engines.values()]
        figures = msgspec.json.encode([document[key] for key in ("hosts", "architectures", "engines")])
        document["version"] = hashlib.sha256(figures).hexdigest()[:12]
        document["provenance"] = (
            f"benchmarks/fit_serving.py on {len(self.cases)} measured configurations without speculative decoding, "
            f"thinned evenly from serving tables of {len({case.source for case in self.cases})} sources, from "
            f"{self.original['provenance']}"
        )
        return document


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return value


if __name__ == "__main__":
    sys.exit(main())
