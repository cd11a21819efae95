"""Time of a step as tables over tokens and rates over contexts, of one copy of a model or of many at once.

Decode attention grows with the cached tokens it reads, prefill attention with the query-key pairs; both are linear, so
that a simulator can leap over steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = Array | np.float64 | float
Table = Literal["own_s", "stage_s", "head_s"]

TOKEN_GRID: Array = np.unique(np.concatenate([np.arange(0, 17), np.rint(np.geomspace(17, 262144, 112))])).astype(float)


@dataclass(frozen=True, slots=True)
class ContextCost:
    """Attention of the layers that share a window: seconds per cached token read, and per query-key pair."""

    window: int | None
    read_s: float
    pair_s: float


@dataclass(frozen=True, slots=True)
class ContextCosts:
    """The same of several copies, a row each."""

    window: int | None
    read_s: Array
    pair_s: Array


class StepFormulas(ABC):
    """What tables and rates say of a step: of one copy in numbers, of several in columns, a row each.

    `own_s` and `stage_s` are seconds by tokens of one attention group and of the whole stage (grid TOKEN_GRID);
    `head_s` by sequences that end the step with a token. All layers of all pipeline stages are counted. A prompt leaves
    a pipeline `fill` of its own turns after the step that took it up has ended.
    """

    __slots__ = ()

    own_s: Array
    stage_s: Array
    head_s: Array
    contexts: Sequence[ContextCost] | Sequence[ContextCosts]
    launch_s: Numbers
    decode_launch_s: Numbers
    step_s: Numbers
    sequence_s: Numbers
    prefill_s: Numbers
    prompt_s: Numbers
    token_s: float
    request_s: float
    overlap: bool
    fill: Numbers
    groups: Numbers
    pp: Numbers
    cp: Numbers
    tokens_per_step: float
    tokens_checked: int
    draft: float

    def decode_seconds(self, sequences: Numbers, context: Numbers) -> Array:
        """A step in which every sequence decodes at a mean context."""
        return self.seconds(sequences, context, 0.0, 0.0)

    def seconds(self, sequences: Numbers, context: Numbers, prompt_tokens: Numbers, start: Numbers) -> Array:
        """A step of `sequences` decoding at a mean `context`, with one prompt chunk that follows `start` tokens."""
        tokens = np.asarray(prompt_tokens, dtype=float)
        base = self.linear_seconds(sequences, tokens, np.minimum(1.0, tokens))
        group = np.ceil(np.asarray(sequences, dtype=float) / self.groups)
        base = base + self.read_seconds(group, context)
        if not tokens.any():
            return base
        return base + self.pair_seconds(tokens, tokens * (np.asarray(start, dtype=float) + tokens / 2))

    def linear_seconds(self, sequences: Numbers, prompt_tokens: Numbers, prompts: Numbers) -> Array:
        """All of a step but its attention over contexts; `prompts` chunks of `prompt_tokens` together.

        A pipeline of pp stages runs pp micro-batches one after another, none smaller than a sequence: a turn of all of
        them takes pp stages.
        """
        held, tokens, chunks = (np.asarray(each, dtype=float) for each in (sequences, prompt_tokens, prompts))
        group, busiest = np.ceil(held / self.groups), np.ceil(chunks / self.groups)
        lone, total = np.ceil(group / self.pp) * self.tokens_checked, np.ceil(held / self.pp) * self.tokens_checked
        turn = self.tables(lone, total, held)
        if np.any(self.decode_launch_s):
            turn = np.hypot(turn, self.decode_launch_s)
        host = self.step_s + self.sequence_s * group
        if not tokens.any():
            return self._joined(turn, host + self.prompt_s * busiest if busiest.any() else host)
        host = host + self.token_s * tokens + self.prompt_s * busiest
        share = np.where(chunks > 0, tokens / np.maximum(chunks, 1) * busiest, 0.0) / self.cp
        mixed = np.minimum(np.maximum(chunks, 1), self.pp)
        loaded = self.tables(lone + share / mixed, total + tokens / mixed, held + chunks)
        loaded = np.hypot(loaded, self.launch_s)
        turn = np.where(tokens > 0, ((self.pp - mixed) * turn + mixed * loaded) / self.pp, turn)
        return self._joined(turn, host + np.where(tokens > 0, self.prefill_s, 0.0))

    def _joined(self, turn: Array, host: Array) -> Array:
        kernels = turn * (1 + self.draft) if self.draft else turn
        return np.asarray(np.maximum(kernels, host) if self.overlap else kernels + host, dtype=float)

    def read_seconds(self, sequences: Numbers, context: Numbers) -> Array:
        """Decode attention of `sequences` of one group at a mean context; pp stages read their layers' part at once."""
        held = np.asarray(sequences, dtype=float)
        each = [cost.read_s * held * np.minimum(context, cost.window or 1e30) for cost in self.contexts]
        seconds = np.asarray(reduce(add, each) if each else 0.0, dtype=float)
        return (seconds * (1 + self.draft) if self.draft else seconds) / self.pp

    def pair_seconds(self, tokens: Numbers, pairs: Numbers) -> Array:
        """Prefill attention of a chunk with that many query-key pairs; a window limits the pairs of each query."""
        queries = np.asarray(tokens, dtype=float)
        seconds = sum(each.pair_s * np.minimum(pairs, queries * (each.window or 1e30)) for each in self.contexts)
        return np.asarray(seconds, dtype=float) / self.pp

    def tables(self, own: Numbers, stage: Numbers, sequences: Numbers) -> Array:
        """Kernels and transfers by tokens of a group, tokens of the stage, and sequences."""
        head = np.asarray(sequences, dtype=float) / self.groups
        return self._look_up(own, "own_s") + self._look_up(stage, "stage_s") + self._look_up(head, "head_s")

    @abstractmethod
    def _look_up(self, tokens: Numbers, name: Table) -> Array:
        """Linear between the grid's points, and beyond its last by the last slope."""


@dataclass(frozen=True, slots=True)
class StepCost(StepFormulas):
    """Time of a step of one copy of the model; see StepFormulas.

    `known` keeps what a search asks of it again and again, such as the time of a prompt alone.
    """

    own_s: Array
    stage_s: Array
    head_s: Array
    contexts: tuple[ContextCost, ...]
    launch_s: float
    decode_launch_s: float
    step_s: float
    sequence_s: float
    prefill_s: float
    prompt_s: float
    token_s: float
    request_s: float
    overlap: bool
    fill: int
    groups: int
    pp: int
    cp: int
    tokens_per_step: float
    tokens_checked: int
    draft: float
    known: dict[Hashable, float] = field(default_factory=dict, init=False, compare=False, repr=False)

    def _look_up(self, tokens: Numbers, name: Table) -> Array:
        at, table = np.asarray(tokens, dtype=float), getattr(self, name)
        found: Array = np.asarray(np.interp(at, TOKEN_GRID, table))
        if at.max(initial=0.0) <= TOKEN_GRID[-1]:
            return found
        over = np.maximum(at - TOKEN_GRID[-1], 0.0)
        slope = (table[-1] - table[-2]) / (TOKEN_GRID[-1] - TOKEN_GRID[-2])
        return np.asarray(found + over * slope, dtype=float)


@dataclass(frozen=True, slots=True)
class StepCosts(StepFormulas):
    """The same of several copies of one model on one engine, a row each: what is asked of them has a row each too.

    `slopes` are those of every table from each point of the grid on.
    """

    own_s: Array
    stage_s: Array
    head_s: Array
    contexts: tuple[ContextCosts, ...]
    launch_s: Array
    decode_launch_s: Array
    step_s: Array
    sequence_s: Array
    prefill_s: Array
    prompt_s: Array
    token_s: float
    request_s: float
    overlap: bool
    fill: Array
    groups: Array
    pp: Array
    cp: Array
    tokens_per_step: float
    tokens_checked: int
    draft: float
    slopes: dict[Table, Array]

    def rows(self, part: slice) -> StepCosts:
        """Some of the rows."""
        cut: dict[str, Any] = {name: getattr(self, name)[part] for name in _TABLES + _TIMES + _DEGREES}
        contexts = tuple(replace(each, read_s=each.read_s[part], pair_s=each.pair_s[part]) for each in self.contexts)
        slopes = {name: values[part] for name, values in self.slopes.items()}
        return replace(self, contexts=contexts, slopes=slopes, **cut)

    def _look_up(self, tokens: Numbers, name: Table) -> Array:
        at, table, slopes = np.asarray(tokens, dtype=float), getattr(self, name), self.slopes[name]
        place = _PLACES[np.minimum(at, TOKEN_GRID[-1]).astype(np.int64)].astype(np.int64)
        cell = place + np.arange(0, table.size, table.shape[1])[:, None]
        return np.asarray(slopes.ravel()[cell] * (at - TOKEN_GRID[place]) + table.ravel()[cell], dtype=float)


# The grid's last point that is not above every whole number of tokens up to its end.
_PLACES = np.repeat(np.arange(len(TOKEN_GRID), dtype=np.uint8), np.append(np.diff(TOKEN_GRID), 1).astype(np.int64))


_TABLES: tuple[Table, ...] = ("own_s", "stage_s", "head_s")
_TIMES = ("launch_s", "decode_launch_s", "step_s", "sequence_s", "prefill_s", "prompt_s")
_DEGREES = ("fill", "groups", "pp", "cp")
_COLUMNS = (
    "launch_s",
    "decode_launch_s",
    "step_s",
    "sequence_s",
    "prefill_s",
    "prompt_s",
    "fill",
    "groups",
    "pp",
    "cp",
)


def together(costs: Sequence[StepCost]) -> StepCosts:
    """Costs of copies of one model on one engine as rows."""
    first = costs[0]
    arrays: dict[str, Array] = {name: np.stack([getattr(each, name) for each in costs]) for name in _TABLES}
    arrays |= {name: column([getattr(each, name) for each in costs]) for name in _TIMES + _DEGREES}
    contexts = [
        ContextCosts(same[0].window, column([each.read_s for each in same]), column([each.pair_s for each in same]))
        for same in zip(*(each.contexts for each in costs), strict=True)
    ]
    return StepCosts(
        contexts=tuple(contexts),
        token_s=first.token_s,
        request_s=first.request_s,
        overlap=first.overlap,
        tokens_per_step=first.tokens_per_step,
        tokens_checked=first.tokens_checked,
        draft=first.draft,
        slopes={name: _slopes(arrays[name]) for name in _TABLES},
        **arrays,
    )


def _slopes(tables: Array) -> Array:
    slopes = np.diff(tables, axis=1) / np.diff(TOKEN_GRID)
    return np.concatenate([slopes, slopes[:, -1:]], axis=1)


def column(values: Sequence[float]) -> Array:
    """Numbers as a row each."""
    return np.array(values, dtype=float)[:, None]
