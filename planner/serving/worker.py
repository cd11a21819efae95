"""One simulated worker: continuous batching that leaps over steps in which the batch does not change."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from .running import Requests, Running
from .schedule import Schedule, StepTable

Batch = Sequence[tuple[list[int], int]]  # entries of prompts in work, and their tokens in this step
_IDLE = math.inf


def steps_within(base: float, growth: float, elapsed: float) -> int:
    """Steps until the one that is running at a time has ended: the first takes `base`, each `growth` more than the one
    before."""
    quadratic = growth / 2
    linear = base - quadratic
    if quadratic > 0:
        steps = (math.sqrt(linear * linear + 4 * quadratic * elapsed) - linear) / (2 * quadratic)
    else:
        steps = elapsed / linear
    return max(1, math.ceil(steps - 1e-9))


class Worker(Running):
    """A copy of the model under a schedule, on its own clock.

    `plan` decides what happens next and returns when it ends; `commit` carries it out and returns the requests that
    left. A leap over equal decode steps may be cut short by `interrupt`. Within a leap the batch and its growth per
    step are constant, so k steps take k·(base + read·S) + read·growth·k(k−1)/2 seconds with S cached tokens at its
    start. `prefills`/`decodes` make it a worker of one phase.
    """

    __slots__ = (
        "_base",
        "_batch",
        "_cache",
        "_leap",
        "_mixed",
        "_prompts",
        "_read_s",
        "_start",
        "busy_s",
        "end",
        "preemptions",
        "prefills",
        "stamp",
        "waiting",
    )

    def __init__(
        self, table: StepTable, schedule: Schedule, requests: Requests, *, prefills: bool = True, decodes: bool = True
    ) -> None:
        super().__init__(table, schedule, requests, decodes)
        self.prefills = prefills
        self.waiting: deque[int] = deque()
        self._prompts: deque[list[int]] = deque()  # [request, tokens done, tokens in all]
        self._batch: Batch = ()
        self._read_s, self._cache, self._mixed = table.read_s, schedule.cache_tokens, schedule.policy == "mixed"
        self._leap = self.preemptions = self.stamp = 0
        self._base = self._start = self.busy_s = 0.0
        self.end = _IDLE

    def plan(self, now: float) -> float:
        """Choose the next step or leap at a time and return its end; infinite when there is nothing to do."""
        if self.waiting:
            self._admit()
        self._start = now
        decoding = self._decoding
        if self._prompts:
            mixed = decoding if self._mixed else 0
            tokens = self._take_prompts(mixed)
            if self._batch:
                self._leap = 1 if mixed else 0
                self.end = end = now + self._step_seconds(mixed, tokens)
                return end
        elif self._batch:
            self._batch = ()
        if not decoding:
            self._leap, self.end = 0, _IDLE
            return _IDLE
        table = self.table
        base = table.plains.get(decoding)
        if base is None:
            base = table.plain(decoding)
        self._base = base = base + self._window_sum + self._read_s * self._sum
        leap = self._ends[0] - self._steps
        if not self._reserve:
            growth = decoding * self._pace
            room = self._cache - self._sum - self._reserved
            if growth * leap > room:
                leap = max(1, int(room / growth))
        self._leap = leap
        self.end = end = now + (leap * base + self._read_s * decoding * self._pace * leap * (leap - 1) / 2)
        return end

    def _step_seconds(self, mixed: int, tokens: int) -> float:
        """A step of the chunks in the batch, with the decodes beside them."""
        table, batch = self.table, self._batch
        seconds = table.loaded(mixed, tokens, len(batch))
        if mixed:
            seconds += self._read_s * self._sum + self._window_sum
        pairs = 0.0
        for entry, chunk in batch:
            pairs += table.pairs_seconds(entry[1], chunk)
        return seconds + pairs * table.fullest(len(batch))

    def wake(self, now: float) -> float:
        """Leave idleness once all that arrives at this time has arrived: an empty step that ends at once."""
        self._start, self._leap, self._batch, self.end = now, 0, (), now
        return now

    def interrupt(self, now: float) -> float:
        """Cut a leap after the step that is running, because a request has arrived; returns the new end."""
        leap = self._leap
        if leap <= 1 or self._batch or len(self.waiting) > 1:  # who arrives behind others could not start anyway
            return self.end
        growth = self._read_s * self._decoding * self._pace
        self._leap = leap = min(leap, steps_within(self._base, growth, now - self._start))
        self.end = end = self._start + (leap * self._base + growth * leap * (leap - 1) / 2)
        return end

    def commit(self) -> list[int]:
        """Carry out what was planned; the requests that are done here, in order."""
        now = self.end
        self.busy_s += now - self._start
        leap, done = self._leap, []
        if leap:
            self._steps = steps = self._steps + leap
            self._sum += self._decoding * self._pace * leap
            if self._ends and self._ends[0] <= steps:
                done = self._leave(now)
        if self._batch:
            firsts, cost = self.requests.first, self.table.cost
            first = now + cost.fill / min(len(self._batch), cost.pp) * (now - self._start)
            for entry, chunk in self._batch:
                entry[1] += chunk
                if entry[1] >= entry[2]:
                    request = entry[0]
                    if math.isnan(firsts[request]):  # else it has been preempted
                        firsts[request] = first
                    if self._prompt_done(request, now):
                        done.append(request)
            prompts = self._prompts
            while prompts and prompts[0][1] >= prompts[0][2]:
                prompts.popleft()
        if not self._reserve and self._cache - self._sum - self._reserved < self._decoding * self._pace:
            self._make_room()
        return done

    def _admit(self) -> None:
        """Take up waiting requests while there is room; some cache is kept free, so that none is preempted at once
        (vLLM keeps 1 %)."""
        waiting, prompts, cache, reserve = self.waiting, self._prompts, self._cache, self._reserve
        most, kept = self.schedule.max_sequences, 0.01 * cache
        while waiting and self._decoding + len(prompts) < most:
            request = waiting[0]
            need = self._need(request)
            if self._decoding or prompts:
                used = self._reserved
                if not reserve:
                    used = used + self._sum + max(kept, 16.0 * self._decoding)
                if used + need > cache:
                    return
            waiting.popleft()
            if self.prefills:
                self._reserved += need
                prompts.append([request, self.requests.cached[request], self.requests.prompt[request]])
                continue
            if reserve:
                self._reserved += need
            self._join(request)

    def _take_prompts(self, mixed: int) -> int:
        """Fill the step's budget with prompt chunks in order of arrival, decodes beside them; the tokens taken."""
        schedule, taken = self.schedule, 0
        budget = schedule.token_budget - mixed * self.table.cost.tokens_checked
        batch: list[tuple[list[int], int]] = []
        for entry in self._prompts:
            chunk = entry[2] - entry[1]
            if schedule.whole_prompts:
                if taken and taken + chunk > budget:
                    break
            elif chunk > budget - taken:
                chunk = budget - taken
                if chunk <= 0:
                    break
            batch.append((entry, chunk))
            taken += chunk
            if taken >= budget:
                break
        self._batch = batch
        return taken

    def _make_room(self) -> None:
        """Preempt the youngest sequences while the cache cannot hold another step; they are computed again."""
        requests = self.requests
        while self._decoding > 1 and self._cache - self._sum - self._reserved < self._decoding * self._pace:
            request, generated = self._preempt()
            requests.prompt[request] += generated
            requests.output[request] = max(requests.output[request] - generated, 1)
            requests.cached[request] = 0
            self.waiting.appendleft(request)
            self.preemptions += 1
