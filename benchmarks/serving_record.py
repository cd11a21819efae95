"""A simulated run kept as the steps it took, so that it can be timed again under other figures without a simulation.

What a run does in which order hardly depends on how long its steps take: in a closed loop and in one batch it does not
at all. So each mean latency is a sum over steps, each step's time weighted by how many requests were waiting for it,
and other figures change the steps' times alone. Steps that are nearly alike are merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving_cases import Case
from benchmarks.serving_prediction import closed_by_latency, cost_of, predict, throughput_of_latency
from shardwright.planner.costs.serving.formulas import StepCost
from shardwright.planner.costs.serving.step import Machine
from shardwright.planner.serving.misses import Misses
from shardwright.planner.serving.simulation import Coming, Deployment, Outcome, Side, Simulation
from shardwright.planner.serving.turns import Pool
from shardwright.planner.serving.worker import Worker
from shardwright.planner.workload.serving import Trace

Floats = NDArray[np.float64]
PER_OCTAVE = 5.0  # bins of sequences and of tokens within which steps are merged


@dataclass(frozen=True, slots=True)
class Steps:
    """The merged steps of one pool: what each held, and its weight in every mean.

    `reads` and `pairs` are cached tokens read and query-key pairs of a step, by the cost's context classes.
    """

    sequences: Floats
    tokens: Floats
    prompts: Floats
    reads: Floats
    pairs: Floats
    ttft: Floats
    tpot: Floats
    duration: Floats

    def seconds(self, cost: StepCost) -> Floats:
        """How long each step takes."""
        scale = (1 + cost.draft) / cost.groups / cost.pp
        read = np.array([each.read_s for each in cost.contexts]) * scale
        pair = np.array([each.pair_s for each in cost.contexts]) / cost.pp
        base = cost.linear_seconds(self.sequences, self.tokens, self.prompts)
        return base + self.reads @ read + self.pairs @ pair


@dataclass(frozen=True, slots=True)
class Note:
    """One step of a worker, or a leap over `steps` of them: decoding sequences, the cached tokens that they read, the
    seconds of their windowed layers, and the prompt chunks beside them as tokens and where they start."""

    start: float
    end: float
    steps: int
    decoding: int
    read: float
    window_s: float
    chunks: tuple[tuple[int, int], ...]


class RecordingWorker(Worker):
    """A worker that notes what it carries out."""

    __slots__ = ("notes",)
    notes: list[Note]

    def commit(self) -> list[int]:
        """Note the step or leap, then carry it out."""
        if self.end > self._start and (self._batch or self._leap):
            steps = self._leap if not self._batch else 1
            mixed = self._decoding if not self._batch or self._leap else 0
            read = self._sum + self._decoding * self._pace * (steps - 1) / 2 if mixed else 0.0
            chunks = tuple((chunk, entry[1]) for entry, chunk in self._batch)
            window = self._window_sum if mixed else 0.0
            self.notes.append(Note(self._start, self.end, steps, mixed, read, window, chunks))
        return super().commit()


class RecordingRun(Simulation):
    """A run whose workers note their steps, and which worker each request went to."""

    def __init__(self, deployment: Deployment, trace: Trace, concurrency: int | None) -> None:
        self.placed: dict[tuple[bool, int], int] = {}
        super().__init__(deployment, trace, concurrency)

    def _workers(self, pools: Sequence[Pool], prefills: bool, decodes: bool) -> list[Worker]:
        found: list[Worker] = []
        for pool in pools:
            for _ in range(pool.workers):
                worker = RecordingWorker(pool.table, pool.schedule, self.requests, prefills=prefills, decodes=decodes)
                worker.notes = []
                found.append(worker)
        return found

    def _arrive(self, request: int, now: float, side: Side, pool: int | None = None) -> None:
        super()._arrive(request, now, side, pool)
        place = next(at for at, each in enumerate(side.workers) if each.waiting and each.waiting[-1] == request)
        self.placed[side is self.front, request] = place

    def _advance_alone(self, worker: Worker, coming: Sequence[Coming], misses: Misses | None) -> bool | None:
        """Never: only workers note what they carry out."""
        return None


def record(
    deployment: Deployment, trace: Trace, concurrency: int | None, last: bool
) -> tuple[Outcome, tuple[Steps, ...]]:
    """Run and keep the steps of every pool; `last`: TTFT is that of the last request and not the mean."""
    run = RecordingRun(deployment, trace, concurrency)
    run.advance()
    outcome = run.outcome()
    arrival, first, finish = (
        np.array(each) for each in (run.requests.arrival, run.requests.first, run.requests.finish)
    )
    late = np.arange(len(trace)) == np.argmax(first - arrival)
    waits = late.astype(float) if last else np.full(len(trace), 1 / len(trace))
    several = trace.output_tokens > 1
    decodes = np.where(several, 1 / np.maximum(trace.output_tokens - 1, 1), 0.0) / max(several.sum(), 1)
    split = bool(run.back.workers)
    found = []
    for workers, front in ((run.front.workers, True), (run.back.workers, False)):
        if not workers:
            continue
        at = np.array([run.placed.get((front, request), -1) for request in range(len(trace))])
        rows = []
        for place, worker in enumerate(workers):
            mine = at == place
            weights = (waits * mine if front else 0 * waits, decodes * mine if not (front and split) else 0 * decodes)
            ends = _end(worker) == max(_end(each) for each in (run.back.workers or run.front.workers))
            rows += _worker_rows(worker, (arrival, first, finish), weights, ends and front is not split)
        found.append(_merged(rows, len(workers[0].table.cost.contexts)))
    return outcome, tuple(found)


def _notes(worker: Worker) -> list[Note]:
    return worker.notes if isinstance(worker, RecordingWorker) else []


def _end(worker: Worker) -> float:
    notes = _notes(worker)
    return notes[-1].end if notes else 0.0


def _worker_rows(
    worker: Worker, times: tuple[Floats, Floats, Floats], weights: tuple[Floats, Floats], ends: bool
) -> list[tuple[list[float], float, float, float, float]]:
    """Features of every noted step, how many there were, and their weights in TTFT, TPOT and the run's length."""
    notes = _notes(worker)
    if not notes:
        return []
    arrival, first, finish = times
    starts, stops = np.array([each.start for each in notes]), np.array([each.end for each in notes])
    ttft = _inside(starts, stops, arrival, first, weights[0])
    tpot = _inside(starts, stops, first, finish, weights[1])
    cost = worker.table.cost
    limited = sum(each.read_s for each in cost.contexts if each.window is not None)
    limited *= (1 + cost.draft) / cost.groups / cost.pp
    rows = []
    for place, note in enumerate(notes):
        tokens = float(sum(chunk for chunk, _ in note.chunks))
        windowed = note.window_s / max(limited, 1e-30)
        reads = [note.read if each.window is None else windowed for each in cost.contexts]
        fullest = worker.table.fullest(len(note.chunks)) if note.chunks else 0.0
        pairs = [
            sum(min(chunk * (start + chunk / 2), chunk * (each.window or 1e30)) for chunk, start in note.chunks)
            * fullest
            for each in cost.contexts
        ]
        features = [float(note.decoding), tokens, float(len(note.chunks)), *reads, *pairs]
        rows.append((features, float(note.steps), float(ttft[place]), float(tpot[place]), float(ends)))
    return rows


def _inside(starts: Floats, stops: Floats, begin: Floats, end: Floats, weight: Floats) -> Floats:
    """For every step the weighted mean number of intervals it lies in."""
    used = np.flatnonzero((weight > 0) & np.isfinite(begin) & np.isfinite(end) & (end > begin))
    if not used.size:
        return np.zeros_like(starts)

    def until(times: Floats, cuts: Floats) -> Floats:
        order = np.argsort(cuts)
        sorted_cuts, w = cuts[order], weight[used][order]
        reached = np.searchsorted(sorted_cuts, times)
        below = np.concatenate([[0.0], np.cumsum(w * sorted_cuts)])[reached]
        above = w.sum() - np.concatenate([[0.0], np.cumsum(w)])[reached]
        return np.asarray(below + times * above, dtype=float)

    def passed(times: Floats) -> Floats:
        return until(times, end[used]) - until(times, begin[used])

    return np.asarray((passed(stops) - passed(starts)) / (stops - starts), dtype=float)


def _merged(rows: list[tuple[list[float], float, float, float, float]], contexts: int) -> Steps:
    features = np.array([row[0] for row in rows]).reshape(len(rows), 3 + 2 * contexts)
    count, ttft, tpot, ends = (np.array([row[place] for row in rows]) for place in (1, 2, 3, 4))
    keys = np.rint(PER_OCTAVE * np.log2(1 + features[:, :3])).astype(np.int64)
    _, bins = np.unique(keys, axis=0, return_inverse=True)
    bins = bins.ravel()
    number = np.bincount(bins, weights=count)
    mean = np.stack([np.bincount(bins, weights=count * column) / number for column in features.T], axis=1)
    sums = [np.bincount(bins, weights=count * each).astype(float) for each in (ttft, tpot, ends)]
    return Steps(
        sequences=np.rint(mean[:, 0]),
        tokens=mean[:, 1],
        prompts=np.rint(mean[:, 2]),
        reads=mean[:, 3 : 3 + contexts],
        pairs=mean[:, 3 + contexts :],
        ttft=sums[0],
        tpot=sums[1],
        duration=sums[2],
    )


@dataclass(frozen=True, slots=True)
class Recorded:
    """A simulated case that can be predicted again, for machines of other figures, from the steps it took."""

    case: Case
    simulated: dict[str, float]
    means: tuple[float, float]  # TTFT and TPOT of the run
    steps: tuple[Steps, ...]
    sums: Floats

    def predicted(self, machine: Machine) -> dict[str, float]:
        """What the simulation would say with other figures, of the metrics that it was asked for."""
        case = self.case
        sums = zip(weighed(case, machine, self.steps), self.sums, strict=True)
        ttft, tpot, length = (now / was if was > 0 else 1.0 for now, was in sums)
        found = {"ttft": ttft, "tpot": tpot, "throughput": 1 / length}
        if closed_by_latency(case):
            again = throughput_of_latency(case, self.means[0] * ttft, self.means[1] * tpot)
            found["throughput"] = again / throughput_of_latency(case, *self.means)
        elif case.load_kind == "qps":
            found["throughput"] = 1.0  # what arrives is carried
        return {metric: value * found[metric] for metric, value in self.simulated.items()}


def recorded(case: Case, machine: Machine) -> Recorded:
    """Simulate a case and keep its steps. Raises SkippedError when it cannot be predicted."""
    kept: list[tuple[Outcome, tuple[Steps, ...]]] = []

    def run(deployment: Deployment, trace: Trace, concurrency: int | None) -> Outcome:
        kept.append(record(deployment, trace, concurrency, case.load_kind == "static_batch"))
        return kept[-1][0]

    simulated = predict(case, machine, run)
    outcome, steps = kept[0]
    return Recorded(case, simulated, (outcome.mean("ttft"), outcome.mean("tpot")), steps, weighed(case, machine, steps))


def weighed(case: Case, machine: Machine, steps: Sequence[Steps]) -> Floats:
    """Mean TTFT and TPOT and the length of a run, as sums over its steps."""
    total = np.zeros(3)
    for layout, each in zip(case.layouts, steps, strict=True):
        seconds = each.seconds(cost_of(case, machine, layout))
        total += (seconds @ each.ttft, seconds @ each.tpot, seconds @ each.duration)
    total[0] += machine.engine.request_s + (machine.engine.hand_over_s if len(case.layouts) > 1 else 0.0)
    return total
