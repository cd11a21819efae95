"""What a worker carries of many request sizes at once: the means of `steady` and `workers`, sizes by row.

The formulas are theirs, without a prefix cache; only the sizes are arrays. A fleet asks for tens of sizes of every
layout, and one table of sizes by requests in hand costs little more than one row of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardwright.models.quantities import kv_bytes_per_token

from ..costs.serving.formulas import Array, StepCost
from ..workload.serving import Targets
from .deployments import Link
from .schedule import Schedule
from .workers import Setting, WorkerType

OPEN_POINTS, DECODE_POINTS = 64, 40
MOST_DECODING = 4096
BUSIEST = 0.95


@dataclass(frozen=True, slots=True)
class Sizes:
    """Prompt and output tokens and the tokens of cache there are for such requests, one row each, [size, 1]."""

    isl: Array
    osl: Array
    cache_tokens: Array

    @property
    def context(self) -> Array:
        """Mean context of a decode step."""
        return self.isl + self.osl / 2

    def held(self, schedule: Schedule) -> Array:
        """Tokens of cache that a request holds on average."""
        return self.isl + (self.osl if schedule.reserve_output else self.osl / 2)


def prefill_table(cost: StepCost, schedule: Schedule, isl: Array, beside: Array) -> Array:
    """`steady.prefill_seconds` by size and number of decodes beside the prompt."""
    tokens = np.maximum(isl, 1.0)
    mixed = beside if schedule.policy == "mixed" else np.zeros_like(beside)
    budget = max(schedule.token_budget / cost.groups, 1.0)
    chunks = np.ones_like(tokens) if schedule.whole_prompts else np.ceil(tokens / budget)
    chunk = np.broadcast_to(tokens / chunks, mixed.shape)
    loaded = cost.linear_seconds(mixed, chunk, np.ones_like(mixed))
    plain = np.where(mixed > 0, cost.linear_seconds(mixed, np.zeros_like(mixed), np.zeros_like(mixed)), 0.0)
    table: Array = chunks * (loaded - plain) + cost.pair_seconds(tokens, tokens * (tokens / 2))
    return table


def batched_prefill(cost: StepCost, schedule: Schedule, isl: Array) -> Array:
    """`steady.batched_prefill_seconds` by size."""
    tokens, budget = np.maximum(isl, 1.0), schedule.token_budget
    pairs = tokens * (tokens / 2)
    together = np.maximum(1.0, np.floor(budget / tokens))
    seconds = cost.linear_seconds(np.zeros_like(tokens), tokens * together, together)
    several = (seconds + np.ceil(together / cost.groups) * cost.pair_seconds(tokens, pairs)) / together
    one = prefill_table(cost, schedule, isl, np.zeros_like(isl))
    one = one / np.minimum(cost.groups, np.maximum(1.0, budget / tokens))
    if not (schedule.whole_prompts or cost.groups > 1):
        full = cost.linear_seconds(np.zeros_like(tokens), np.full_like(tokens, budget), np.ceil(budget / tokens))
        one = np.minimum(one, full * tokens / budget + cost.pair_seconds(tokens, pairs))
    return np.where(together == 1.0, one, several)


def expected_rates(worker: WorkerType, sizes: Sizes, targets: Targets) -> Array:
    """`workers.expected_rate` by size."""
    cost, schedule = worker.cost, worker.schedule
    longest = np.maximum(sizes.isl + sizes.osl, 1.0)
    top = np.maximum(2.0, np.minimum(schedule.max_sequences, sizes.cache_tokens / longest))
    n = np.geomspace(1, top[:, 0], OPEN_POINTS, axis=-1)
    running = np.minimum(
        n, np.maximum(1.0, np.minimum(schedule.max_sequences, sizes.cache_tokens / sizes.held(schedule)))
    )
    step = cost.decode_seconds(running, sizes.context)
    prefill = prefill_table(cost, schedule, sizes.isl, running)
    osl = np.maximum(sizes.osl, 1.0)
    decode = np.maximum(osl - 1, 1e-9) / cost.tokens_per_step * step
    together = np.minimum(batched_prefill(cost, schedule, sizes.isl), prefill)
    others = np.maximum(running - 1, 0.0)
    each = prefill
    for _ in range(4):
        shared = np.where(osl > 1, each * others, 0.0)
        busy = np.clip(running * each / (decode + shared + prefill), 0.0, BUSIEST)
        each = prefill + (together - prefill) * busy
    tpot = (decode + shared) / np.maximum(osl - 1, 1.0)
    ttft = prefill + cost.fill * prefill + cost.request_s + np.where(running > 1, step / 2, 0.0)
    ttft += step * (schedule.policy == "mixed") + np.minimum(busy * each / (2 * (1 - busy)), others * each / 2)
    ttft += np.maximum(n / running - 1, 0.0) * (ttft + decode + shared)
    e2e = ttft + tpot * np.maximum(sizes.osl - 1, 0)
    rates = np.maximum.accumulate((n - 1) / e2e, axis=-1)
    good = n <= running
    limits = targets.limits()
    good &= ttft <= limits.get("ttft", np.inf)
    good &= (tpot <= limits.get("tpot", np.inf)) | (sizes.osl <= 1)
    good &= e2e <= limits.get("e2e", np.inf)
    most: Array = np.where(good, rates, 0.0).max(-1)
    return most


def decode_rates(worker: WorkerType, sizes: Sizes, targets: Targets) -> Array:
    """`workers.decode_rate` by size."""
    schedule = worker.schedule
    top = np.maximum(2.0, np.minimum(np.minimum(schedule.max_sequences, sizes.cache_tokens), MOST_DECODING))
    n = np.rint(np.geomspace(1, top[:, 0], DECODE_POINTS, axis=-1))
    step = worker.cost.decode_seconds(n, sizes.context) / worker.cost.tokens_per_step
    good = (n * sizes.held(schedule) <= sizes.cache_tokens) & (step <= targets.limits().get("tpot", np.inf))
    most: Array = np.where(good, n / (step * np.maximum(sizes.osl - 1, 1)), 0.0).max(-1)
    return most


def prefill_rates(
    setting: Setting, worker: WorkerType, sizes: Sizes, targets: Targets, links: Sequence[Link | None]
) -> Array:
    """`workers.prefill_rate` by size; over a link, first tokens wait for the caches behind them (`handed_over`), and no
    more caches leave than it passes."""
    cost, schedule = worker.cost, worker.schedule
    lone = prefill_table(cost, schedule, sizes.isl, np.zeros_like(sizes.isl))[:, 0] * (1 + cost.fill) + cost.request_s
    batched = batched_prefill(cost, schedule, sizes.isl)[:, 0]
    rate = np.array([np.inf if each is None else each.bytes_per_s for each in links])
    latency = np.array([0.0 if each is None else each.latency_s for each in links])
    sent = kv_bytes_per_token(setting.model, dtype_bytes=setting.quantization.cache_bytes) * sizes.isl[:, 0]
    seconds, layers = latency + sent / rate, max(setting.model.num_layers, 1)
    exposed = np.maximum(seconds / layers, seconds - batched * (1 - 1 / layers))
    waits = np.where(np.isfinite(rate), exposed + setting.engine.hand_over_s, 0.0)
    left = targets.limits().get("ttft", np.inf) - waits
    with np.errstate(divide="ignore"):
        most = np.where(sent > 0, rate / sent, np.inf)
    return np.where((lone <= left) & (left > 0), np.minimum(BUSIEST / batched, most), 0.0)
