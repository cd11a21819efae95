"""How an engine forms its steps, and the tables in which a simulated worker looks its step times up."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from math import hypot

import numpy as np

from ..costs.serving.coefficients import Engine, Policy
from ..costs.serving.formulas import TOKEN_GRID, Array, StepCost

_GRID: list[float] = TOKEN_GRID.tolist()
_WHOLE = 20_000  # tokens up to which times are those of the whole number above


@dataclass(frozen=True, slots=True)
class Schedule:
    """Continuous batching as the engines do it.

    `token_budget` tokens and `max_sequences` sequences a step at most; `cache_tokens` of KV cache. "mixed" puts prompt
    chunks beside the decodes of a step (vLLM, TensorRT-LLM), "prefill-first" stops decoding while prompts wait
    (SGLang). `whole_prompts` never splits a prompt; `reserve_output` admits a request only with room for its whole
    output, otherwise the youngest is preempted and computed again when the cache is full.
    """

    token_budget: int
    max_sequences: int
    cache_tokens: float
    policy: Policy = "mixed"
    whole_prompts: bool = False
    reserve_output: bool = False


@dataclass(frozen=True, slots=True)
class Schedules:
    """The same of several copies on one engine, a row each."""

    token_budget: Array
    max_sequences: Array
    cache_tokens: Array
    policy: Policy
    whole_prompts: bool
    reserve_output: bool


def schedule_of(engine: Engine, cache_tokens: float, groups: int = 1) -> Schedule:
    """The engine's own way, with that much cache; budgets are per attention group."""
    return Schedule(
        token_budget=engine.token_budget * groups,
        max_sequences=engine.max_sequences * groups,
        cache_tokens=cache_tokens,
        policy=engine.policy,
        whole_prompts=engine.whole_prompts,
        reserve_output=engine.reserve_output,
    )


class _Line:
    """A table by tokens as plain numbers, which a loop reads faster than those of numpy."""

    __slots__ = ("slopes", "values")

    def __init__(self, table: Array) -> None:
        self.values: list[float] = table.tolist()
        self.slopes: list[float] = (np.diff(table) / np.diff(TOKEN_GRID)).tolist()

    def at(self, tokens: int) -> float:
        """Linear between the grid's points."""
        place = bisect_right(_GRID, tokens) - 1
        return self.slopes[place] * (tokens - _GRID[place]) + self.values[place]


class StepTable:
    """Step times of one copy as plain numbers: what the inner loop of a simulation needs."""

    __slots__ = (
        "_head", "_own", "_stage", "cost", "loads", "pair_s", "pair_windows", "plains", "read_s", "windows"
    )  # fmt: skip

    def __init__(self, cost: StepCost) -> None:
        scale = (1 + cost.draft) / cost.groups / cost.pp
        self.cost = cost
        self.read_s = sum(each.read_s for each in cost.contexts if each.window is None) * scale
        self.pair_s = sum(each.pair_s for each in cost.contexts if each.window is None) / cost.pp
        limited = [each for each in cost.contexts if each.window is not None]
        self.windows = tuple((each.window or 0, each.read_s * scale) for each in limited)
        self.pair_windows = tuple((each.window or 0, each.pair_s / cost.pp) for each in limited)
        self._own, self._stage, self._head = _Line(cost.own_s), _Line(cost.stage_s), _Line(cost.head_s)
        self.plains: dict[int, float] = {}
        self.loads: dict[tuple[int, int, int], float] = {}

    def plain(self, sequences: int) -> float:
        """A step of decodes alone, its attention over contexts left out."""
        found = self.plains.get(sequences)
        if found is None:
            cost = self.cost
            own, stage = self._micro_batch(sequences)
            turn = hypot(self._turn(own, stage, sequences), cost.decode_launch_s)
            host = cost.step_s + cost.sequence_s * -(-sequences // cost.groups)
            found = self._joined(turn * (1 + cost.draft), host)
            self.plains[sequences] = found
        return found

    def loaded(self, sequences: int, prompt_tokens: int, prompts: int) -> float:
        """A step of decodes with prompt chunks beside them, attention over contexts left out."""
        key = (sequences, prompt_tokens, prompts)
        found = self.loads.get(key)
        if found is None:
            found = self.loads[key] = self._with_prompts(*key)
        return found

    def _with_prompts(self, sequences: int, prompt_tokens: int, prompts: int) -> float:
        cost = self.cost
        own, stage = self._micro_batch(sequences)
        share = prompt_tokens / prompts * -(-prompts // cost.groups) / cost.cp
        mixed = min(prompts, cost.pp)
        turn = self._turn(own + share / mixed, stage + prompt_tokens / mixed, sequences + prompts)
        turn = hypot(turn, cost.launch_s) * mixed
        if mixed < cost.pp:
            turn += hypot(self._turn(own, stage, sequences), cost.decode_launch_s) * (cost.pp - mixed)
        host = cost.step_s + cost.sequence_s * -(-sequences // cost.groups)
        host += cost.token_s * prompt_tokens + cost.prefill_s + cost.prompt_s * -(-prompts // cost.groups)
        return self._joined(turn / cost.pp * (1 + cost.draft), host)

    def _joined(self, kernels: float, host: float) -> float:
        return max(kernels, host) if self.cost.overlap else kernels + host

    def _micro_batch(self, sequences: int) -> tuple[int, int]:
        """Tokens of one attention group and of the stage in one of pp micro-batches."""
        cost = self.cost
        per_group = -(-sequences // cost.groups)
        own = -(-per_group // cost.pp) * cost.tokens_checked
        return own, -(-sequences // cost.pp) * cost.tokens_checked

    def _turn(self, own: float, stage: float, sequences: int) -> float:
        if own < _WHOLE - 1 and stage < _WHOLE - 1:
            per_group = -(-sequences // self.cost.groups)
            return self._own.at(int(own + 0.999)) + self._stage.at(int(stage + 0.999)) + self._head.at(per_group)
        return float(self.cost.tables(np.float64(own), np.float64(stage), np.float64(sequences)))

    def fullest(self, prompts: int) -> float:
        """The share of a step's prompts that the fullest attention group has."""
        return -(-prompts // self.cost.groups) / prompts

    def window_seconds(self, context: float) -> float:
        """Decode attention of the windowed layers for one sequence at a context."""
        return sum(rate * min(context, window) for window, rate in self.windows)

    def pairs_seconds(self, start: int, tokens: int) -> float:
        """Prefill attention of a chunk that follows `start` tokens."""
        pairs = tokens * (start + tokens / 2)
        total = self.pair_s * pairs
        for window, rate in self.pair_windows:
            total += rate * min(pairs, tokens * window)
        return total
