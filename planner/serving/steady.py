"""Steady state of continuous batching in closed form: what a search filters with before it simulates.

One worker with n requests in hand spends, for every request, osl decode steps shared by all n and one prefill of its
own. A request therefore sees (n − 1) prefills of others between its own tokens: TPOT = d(n) + (n − 1) p / osl, with d
the time of a decode step and p what a prompt adds to the steps that carry it. TTFT is p, half a step, and the wait for
prompts in front of it, those of an M/D/1 queue at the utilization of prefill (Kleinrock 1975, section 5.6), never more
than the others' prompts. The busier prefill is, the more prompts share a step, down to the cost of full budgets. A
closed loop that starts with all its requests at once adds half of the first round's prompts, over the rounds it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..costs.serving.formulas import Array, StepCost, StepFormulas
from .schedule import Schedule, Schedules
from .stack import Stack

OPEN_POINTS = 64


@dataclass(frozen=True, slots=True)
class Lengths:
    """Mean prompt and output tokens of a request, and how many of the prompt are found in the prefix cache."""

    isl: float
    osl: float
    cached: float = 0.0

    @property
    def context(self) -> float:
        """Mean context of a decode step."""
        return self.isl + self.osl / 2


@dataclass(frozen=True, slots=True)
class Steady:
    """Means of one worker, by requests in hand."""

    concurrency: Array
    running: Array
    ttft_s: Array
    tpot_s: Array
    requests_per_s: Array
    prefill_s: Array
    step_s: Array

    def row(self, place: int) -> Steady:
        """Those of one worker of a stack."""
        return Steady(**{name: getattr(self, name)[place] for name in self.__slots__})

    def e2e_s(self, osl: float) -> Array:
        """Mean time from arrival to the last token."""
        return self.ttft_s + self.tpot_s * max(osl - 1, 0)


@lru_cache(maxsize=256)
def spaced(most: float, points: int) -> Array:
    """Numbers from 1 to the most, each by the same factor above the one before; not to be written to."""
    found = np.geomspace(1, most, points)
    found.setflags(write=False)
    return found


def prefill_seconds(
    cost: StepFormulas, schedule: Schedule | Schedules, lengths: Lengths, beside: Array | float = 0.0
) -> Array:
    """What one prompt adds to the steps that carry it, `beside` that many decodes."""
    beside = np.asarray(beside, dtype=float)
    tokens = max(lengths.isl - lengths.cached, 1.0)
    mixed = beside if schedule.policy == "mixed" else np.zeros_like(beside)
    budget = np.maximum(schedule.token_budget / cost.groups, 1.0)
    chunks = np.ones_like(budget) if schedule.whole_prompts else np.ceil(tokens / budget)
    # Prompts of different groups run beside each other; the busiest group has one.
    loaded = cost.linear_seconds(mixed, tokens / chunks, 1.0)
    plain = np.where(mixed > 0, cost.linear_seconds(mixed, 0.0, 0.0), 0.0)
    pairs = tokens * (lengths.cached + tokens / 2)
    return np.asarray(chunks * (loaded - plain) + cost.pair_seconds(np.float64(tokens), np.float64(pairs)), dtype=float)


def lone_prefill_seconds(cost: StepCost, schedule: Schedule, lengths: Lengths, beside: int = 0) -> float:
    """The same of one prompt with nothing or one decode beside it."""
    key = (beside, schedule, lengths)
    if key not in cost.known:
        found = prefill_seconds(cost, schedule, lengths, np.array([0.0, 1.0]))
        cost.known.update({(at, schedule, lengths): float(found[at]) for at in (0, 1)})
    return cost.known[key]


def batched_prefill_seconds(cost: StepCost, schedule: Schedule, lengths: Lengths) -> float:
    """Time per prompt when the budget of every step is full: the reciprocal of a prefill worker's capacity."""
    key = ("batched", schedule, lengths)
    if key not in cost.known:
        cost.known[key] = float(_batched(cost, schedule, lengths))
    return cost.known[key]


def _batched(cost: StepFormulas, schedule: Schedule | Schedules, lengths: Lengths) -> Array:
    tokens = max(lengths.isl - lengths.cached, 1.0)
    budget = np.asarray(schedule.token_budget, dtype=float)
    pair = cost.pair_seconds(tokens, tokens * (lengths.cached + tokens / 2))
    many = np.maximum(1.0, np.floor(budget / tokens))
    several = (cost.linear_seconds(0.0, tokens * many, many) + np.ceil(many / cost.groups) * pair) / many
    alone = prefill_seconds(cost, schedule, lengths) / np.minimum(cost.groups, np.maximum(1.0, budget / tokens))
    if not schedule.whole_prompts:
        full = cost.linear_seconds(0.0, budget, np.ceil(budget / tokens)) * tokens / budget + pair
        alone = np.where(np.greater(cost.groups, 1), alone, np.minimum(alone, full))
    return np.where(many == 1.0, alone, several)


def learn(types: Sequence[tuple[StepCost, Schedule]], stack: Stack, lengths: Lengths) -> None:
    """Tell costs what will be asked of them: the prompt's seconds above, of all rows of a stack at once."""
    lone = prefill_seconds(stack.cost, stack.schedule, lengths, np.array([0.0, 1.0])).tolist()
    batched = _batched(stack.cost, stack.schedule, lengths)[:, 0].tolist()
    for (cost, schedule), (alone, beside), full in zip(types, lone, batched, strict=True):
        found = {0: alone, 1: beside, "batched": full}
        cost.known.update({(name, schedule, lengths): value for name, value in found.items()})


def steady_state(
    cost: StepFormulas,
    schedule: Schedule | Schedules,
    lengths: Lengths,
    concurrency: Array,
    rounds: float = np.inf,
) -> Steady:
    """Means at every number of requests in hand; what the cache cannot hold waits. Of a stack, a row each."""
    n = np.asarray(concurrency, dtype=float)
    held = lengths.isl + (lengths.osl if schedule.reserve_output else lengths.osl / 2)
    most = np.maximum(1.0, np.minimum(schedule.max_sequences, schedule.cache_tokens / held))
    running = np.minimum(n, most)
    step = cost.decode_seconds(running, lengths.context)
    prefill = prefill_seconds(cost, schedule, lengths, running)
    osl = max(lengths.osl, 1.0)
    decode = np.maximum(osl - 1, 1e-9) / cost.tokens_per_step * step
    together = np.minimum(_full(cost, schedule, lengths), prefill)
    each, busy = prefill, np.zeros_like(n)
    for _ in range(4):
        shared = each * np.maximum(running - 1, 0.0) if osl > 1 else np.zeros_like(n)
        busy = np.clip(running * each / (decode + shared + prefill), 0.0, 0.95)
        each = prefill + (together - prefill) * busy
    tpot = (decode + shared) / max(osl - 1, 1.0)
    fill = cost.fill * prefill
    lone = prefill + fill + cost.request_s + np.where(running > 1, step / 2, 0.0) + step * (schedule.policy == "mixed")
    wait = np.minimum(busy * each / (2 * (1 - busy)), np.maximum(running - 1, 0) * each / 2)
    burst = np.maximum(running - 1, 0) * together / 2 / rounds
    ttft = lone + wait + burst
    cycle = ttft + decode + shared
    queue = np.maximum(n / running - 1, 0.0) * cycle
    return Steady(
        concurrency=np.broadcast_to(n, running.shape),
        running=running,
        ttft_s=ttft + queue,
        tpot_s=tpot,
        requests_per_s=running / cycle,
        prefill_s=prefill,
        step_s=step,
    )


def _full(cost: StepFormulas, schedule: Schedule | Schedules, lengths: Lengths) -> Array | float:
    if isinstance(cost, StepCost) and isinstance(schedule, Schedule):
        return batched_prefill_seconds(cost, schedule, lengths)
    return _batched(cost, schedule, lengths)


def rows_of_spaced(most: Array, points: int) -> Array:
    """`spaced` up to every row's most."""
    return np.stack([spaced(each, points) for each in most[:, 0].tolist()])


def open_states(cost: StepFormulas, schedule: Schedule | Schedules, lengths: Lengths) -> tuple[Steady, Array]:
    """Means of one worker under Poisson arrivals, from idle to a full cache, and the rates at which they hold.

    An arrival sees as many requests as there are on average (PASTA, Wolff 1982), rate · E2E by Little's law, so that
    with itself n requests are in hand where (n − 1) / E2E(n) is the rate. Up to half of capacity, within 15 % of the
    simulation.
    """
    full = schedule.cache_tokens / max(lengths.isl + lengths.osl, 1.0)
    most = np.maximum(2.0, np.minimum(schedule.max_sequences, full))
    grid = spaced(float(most), OPEN_POINTS) if most.ndim == 0 else rows_of_spaced(most, OPEN_POINTS)
    found = steady_state(cost, schedule, lengths, grid)
    return found, np.maximum.accumulate((grid - 1) / found.e2e_s(lengths.osl), axis=-1)
