"""Discrete-event simulation of requests through chains of nodes, each with its own cache, batches and links."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from itertools import count, pairwise

import numpy as np

from ..plan.layer_placement import SINK, SOURCE

PROMPT_BUDGET = 2048
"""Prompt tokens that a node takes into one batch at most, whole prompts, at least one."""
ARRIVAL, START, END = "arrival", "start", "end"
STRIDE = 7919
"""A prime that spreads the requests of the first moment over their outputs."""


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Measured seconds of one layer: points of (prompt tokens in the batch, s) and of (decoding sequences, s).

    Linear between the points and beyond the last one.
    """

    prompt: tuple[tuple[float, float], ...]
    decode: tuple[tuple[float, float], ...]

    def prompt_s(self, tokens: float) -> float:
        """Seconds of a layer for that many prompt tokens."""
        return _linear(self.prompt, tokens)

    def decode_s(self, sequences: float) -> float:
        """Seconds of a layer for one token of that many sequences."""
        return _linear(self.decode, sequences)


def _linear(points: tuple[tuple[float, float], ...], at: float) -> float:
    x, y = np.array(points).T
    if at <= x[-1]:
        return float(np.interp(at, x, y))
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    return float(y[-1] + slope * (at - x[-1]))


@dataclass(frozen=True, slots=True)
class ChainNode:
    """A node that holds `layers` layers, and a cache for that many tokens of them."""

    layers: int
    cache_tokens: float
    times: LayerTimes


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A link of the chain; `weight` is its share of what leaves its source (the planned flow)."""

    weight: float
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class ChainSystem:
    """Nodes by name, links by (from, to), and the bytes that one token sends from node to node.

    A node that could take more waits `gather_s` for it, so that what is on its way joins the batch.
    """

    nodes: dict[str, ChainNode]
    links: dict[tuple[str, str], ChainLink]
    token_bytes: float
    gather_s: float = 2e-3


@dataclass(frozen=True, slots=True)
class ChainLoad:
    """A closed loop: `concurrency` requests want to be in flight; lengths are taken in turn, again and again.

    With `prompts` false a request arrives with its prompt already in the caches: the flow objective's own view.
    """

    prompt_tokens: tuple[int, ...]
    output_tokens: tuple[int, ...]
    concurrency: int
    seconds: float
    prompts: bool = True


@dataclass(frozen=True, slots=True)
class ChainOutcome:
    """What the second half of the simulated time saw.

    `token_s` is the mean time from one token of a request to the next, `prompt_s` from admission to the first token,
    `in_flight` the mean number of admitted requests, `cache_used` the fullest node's mean share of its cache.
    """

    tokens_per_s: float
    token_s: float
    prompt_s: float
    in_flight: float
    cache_used: float


def simulate_chains(system: ChainSystem, load: ChainLoad) -> ChainOutcome:
    """Run a closed loop through chains.

    A request is admitted onto a way whose nodes all have cache for its prompt and output; at every node it takes the
    link that is furthest behind its share, among those that lead on (Helix's per-request pipelines, Mei et al. 2025).
    A node works on what waits for it in batches of its requests over the nodes of the longest way at most, as pipelined
    engines divide them: one batch of all would keep one node busy at a time. Every token comes back to the source
    before the next.
    """
    return _Run(system, load).outcome()


class _Run:
    def __init__(self, system: ChainSystem, load: ChainLoad) -> None:
        self.system, self.load = system, load
        self.order, self.events = count(), list[tuple[float, int, str, str, list[int]]]()
        self.next: dict[str, list[str]] = {}
        for a, b in system.links:
            self.next.setdefault(a, []).append(b)
        self.behind = dict.fromkeys(system.links, 0.0)
        self.free_at = dict.fromkeys(system.links, 0.0)
        self.room = {name: node.cache_tokens for name, node in system.nodes.items()}
        self.resident, self.depth = dict.fromkeys(system.nodes, 0), 1
        self.queue: dict[str, list[int]] = {name: [] for name in system.nodes}
        self.batch: dict[str, list[int]] = {name: [] for name in system.nodes}
        self.decode_s = {name: cache(node.times.decode_s) for name, node in system.nodes.items()}
        self.prompt_s = {name: cache(node.times.prompt_s) for name, node in system.nodes.items()}
        self.way: list[list[str]] = []
        self.at: list[int] = []
        self.prefilling: list[bool] = []
        self.left: list[int] = []
        self.since: list[float] = []
        self.waiting: deque[int] = deque()
        self.tokens, self.token_wait, self.prompts, self.prompt_wait = 0, 0.0, 0, 0.0
        self.flying, self.flown, self.filled, self.clock = 0, 0.0, dict.fromkeys(system.nodes, 0.0), 0.0

    def outcome(self) -> ChainOutcome:
        load, end = self.load, self.load.seconds
        for _ in range(load.concurrency):
            self._send(0.0)
        while self.events and self.events[0][0] <= end:
            now, _, kind, place, requests = heappop(self.events)
            self._count_time(now)
            if place == SINK:
                self._arrive(requests, now)
            elif kind == ARRIVAL:
                self.queue[place] += requests
                self._gather(place, now)
            elif kind == END:
                self._finish(place, now)
            else:
                self._start(place, now)
        self._count_time(end)
        half = end / 2
        used = max(filled / (half * self.system.nodes[name].cache_tokens) for name, filled in self.filled.items())
        return ChainOutcome(
            tokens_per_s=self.tokens / half,
            token_s=self.token_wait / max(self.tokens, 1),
            prompt_s=self.prompt_wait / max(self.prompts, 1),
            in_flight=self.flown / half,
            cache_used=used,
        )

    def _count_time(self, now: float) -> None:
        """Integrate what is in flight and in the caches over the second half of the time."""
        passed = now - max(self.clock, self.load.seconds / 2)
        if passed > 0:
            self.flown += passed * self.flying
            for name, node in self.system.nodes.items():
                self.filled[name] += passed * (node.cache_tokens - self.room[name])
        self.clock = now

    def _send(self, now: float) -> None:
        """A new request, which waits for its admission."""
        request = len(self.way)
        self.way.append([])
        self.at.append(0)
        self.prefilling.append(False)
        self.left.append(self._output(request))
        self.since.append(now)
        self.waiting.append(request)
        self._admit(now)

    def _prompt(self, request: int) -> int:
        return self.load.prompt_tokens[request % len(self.load.prompt_tokens)]

    def _output(self, request: int) -> int:
        return self.load.output_tokens[request % len(self.load.output_tokens)]

    def _need(self, request: int) -> int:
        return self._prompt(request) + self._output(request)

    def _admit(self, now: float) -> None:
        """Admit in order of arrival while the first has a way with room.

        Requests of the first moment are met at any point of their output, so that the loop starts full.
        """
        while self.waiting:
            request = self.waiting[0]
            way = self._way(self._need(request))
            if way is None:
                return
            self.waiting.popleft()
            for a, b in pairwise(way):
                for other in self.next[a]:
                    self.behind[a, other] += self.system.links[a, other].weight
                self.behind[a, b] -= sum(self.system.links[a, other].weight for other in self.next[a])
            for name in way[1:-1]:
                self.room[name] -= self._need(request)
                self.resident[name] += 1
            self.way[request], self.since[request] = way, now
            self.depth = max(self.depth, len(way) - 2)
            if now > 0:
                self.prefilling[request] = self.load.prompts
            else:
                self.left[request] = 1 + request * STRIDE % self._output(request)
            self.flying += 1
            self._move([request], now)

    def _way(self, need: int) -> list[str] | None:
        """A way from source to sink over nodes with room, links furthest behind first; None when there is none."""
        way, closed = [SOURCE], set[str]()
        while way[-1] != SINK:
            here = way[-1]
            on = [b for b in self.next.get(here, []) if b not in closed and (b == SINK or self.room[b] >= need)]
            if on:
                way.append(max(on, key=lambda b: self.behind[here, b]))
            elif here == SOURCE:
                return None
            else:
                closed.add(way.pop())
        return way

    def _move(self, requests: list[int], now: float) -> None:
        """Send requests that take the same link on to its end, after what is already on the link."""
        any_of = requests[0]
        here, there = self.way[any_of][self.at[any_of]], self.way[any_of][self.at[any_of] + 1]
        link = self.system.links[here, there]
        tokens = 0
        for request in requests:
            self.at[request] += 1
            tokens += self._prompt(request) if self.prefilling[request] else 1
        carried = 0.0 if here == SOURCE or there == SINK else tokens * self.system.token_bytes
        self.free_at[here, there] = max(now, self.free_at[here, there]) + carried / link.bytes_per_s
        self._at(self.free_at[here, there] + link.latency_s, ARRIVAL, there, requests)

    def _at(self, time: float, kind: str, place: str, requests: list[int]) -> None:
        heappush(self.events, (time, next(self.order), kind, place, requests))

    def _most(self, place: str) -> int:
        """Requests in a batch at most: the node's own over the nodes of the longest way."""
        return -(-self.resident[place] // self.depth)

    def _gather(self, place: str, now: float) -> None:
        """Start a batch at once when it is full, otherwise once what is on its way has had time to come."""
        if not self.batch[place] and self.queue[place]:
            full = len(self.queue[place]) >= self._most(place)
            self._at(now if full else now + self.system.gather_s, START, place, [])

    def _start(self, place: str, now: float) -> None:
        """Take what waits, prompts up to the budget, and be done with it later."""
        if self.batch[place] or not self.queue[place]:
            return
        batch, left, decoding, prompt = [], [], 0, 0
        most = self._most(place)
        for request in self.queue[place]:
            if not self.prefilling[request]:
                if decoding == most:
                    left.append(request)
                    continue
                decoding += 1
            else:
                tokens = self._prompt(request)
                if prompt and prompt + tokens > PROMPT_BUDGET:
                    left.append(request)
                    continue
                prompt += tokens
            batch.append(request)
        self.queue[place], self.batch[place] = left, batch
        layer_s = self.decode_s[place](decoding) if decoding else 0.0
        layer_s += self.prompt_s[place](prompt) if prompt else 0.0
        self._at(now + self.system.nodes[place].layers * layer_s, END, place, [])

    def _finish(self, place: str, now: float) -> None:
        """Pass the batch on, together where it goes the same way, and start the next one."""
        groups: dict[str, list[int]] = {}
        for request in self.batch[place]:
            groups.setdefault(self.way[request][self.at[request] + 1], []).append(request)
        self.batch[place] = []
        for requests in groups.values():
            self._move(requests, now)
        self._gather(place, now)

    def _arrive(self, requests: Sequence[int], now: float) -> None:
        """Tokens come out: the next ones go back to the source, or the request is done and another comes."""
        counts = now > self.load.seconds / 2
        back: dict[str, list[int]] = {}
        for request in requests:
            waited = now - self.since[request]
            if self.prefilling[request]:
                self.prefilling[request] = False
                self.prompts += counts
                self.prompt_wait += waited if counts else 0.0
            else:
                self.tokens += counts
                self.token_wait += waited if counts else 0.0
            self.since[request], self.at[request] = now, 0
            self.left[request] -= 1
            if self.left[request] > 0:
                back.setdefault(self.way[request][1], []).append(request)
                continue
            for name in self.way[request][1:-1]:
                self.room[name] += self._need(request)
                self.resident[name] -= 1
            self.flying -= 1
            self._send(now)
        for group in back.values():
            self._move(group, now)
