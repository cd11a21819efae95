"""One worker alone under requests that come at their own times, as long as it need not preempt any.

Its steps are those of `Worker`, which `simulation` runs. Requests are taken up and their prompts done in order of
arrival, so that a few places in that order say who waits and who is computed; those whose last token comes in the same
step leave together.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from .worker import Worker, steps_within

Lost = Callable[[Sequence[int]], bool]


class Alone:
    """A run of one worker; `busy_s` is how long its steps took."""

    def __init__(self, worker: Worker, arrival: Sequence[float]) -> None:
        self.table, self.schedule, self.requests = worker.table, worker.schedule, worker.requests
        self.prefills, self.decodes = worker.prefills, worker.decodes
        self.arrival = arrival
        self.busy_s = 0.0
        self._pace = self.table.cost.tokens_per_step
        self._ends: list[int] = []  # heap of the steps in which sequences have their last token
        self._ending: dict[int, list[tuple[int, float]]] = {}  # who they are, and the cache they hold then
        self._decoding, self._reserved, self._sum, self._window_sum = 0, 0.0, 0.0, 0.0
        self._admitted = self._arrived = 0

    def advance(self, lost: Lost | None) -> bool | None:
        """Run to the end, or until the run is lost: whether it came to its end. None where a sequence would have to be
        preempted, which this run cannot do."""
        arrival, number, table = self.arrival, len(self.arrival), self.table
        plains, read_s, pace, ends, lone = table.plains, table.read_s, self._pace, self._ends, self.schedule
        cache, reserve, mixes = lone.cache_tokens, lone.reserve_output, lone.policy == "mixed"
        now, steps, head, done = 0.0, 0, 0, 0
        while True:
            if self._admitted < self._arrived:
                self._admit(head, steps)
            decoding, stop, rest = self._decoding, head, 0
            if self.prefills and head < self._admitted:
                stop, rest, seconds = self._prompt_step(head, done, decoding if mixes else 0)
            if stop > head or rest:
                leap = 1 if mixes and decoding else 0
                end = now + seconds
            elif decoding:
                base = plains.get(decoding) or table.plain(decoding)
                base = base + self._window_sum + read_s * self._sum
                leap, growth = ends[0] - steps, decoding * pace
                if not reserve:
                    room = cache - self._sum - self._reserved
                    if growth * leap > room:
                        leap = max(1, int(room / growth))
                growth = read_s * decoding * pace
                end = now + (leap * base + growth * leap * (leap - 1) / 2)
                at = self._arrived
                if leap > 1 and at < number and self._admitted == at and arrival[at] <= end:
                    leap = min(leap, steps_within(base, growth, arrival[at] - now))
                    end = now + (leap * base + growth * leap * (leap - 1) / 2)
            elif self._arrived == number:
                return True
            else:
                now = arrival[self._arrived]
                self._arrived = bisect_right(arrival, now, self._arrived)
                continue
            if self._arrived < number and arrival[self._arrived] <= end:
                self._arrived = bisect_right(arrival, end, self._arrived)
            self.busy_s += end - now
            left: Sequence[int] = ()
            if leap:
                steps += leap
                self._sum += decoding * pace * leap
                if ends and ends[0] <= steps:
                    left = self._leave(heappop(ends), end)
            if stop > head or rest:
                ended = self._prompts_done(range(head, stop), stop - head + (rest > 0), (now, end, steps))
                left = [*left, *ended] if ended else left
                head, done = stop, rest
            decoding = self._decoding
            if decoding > 1 and not reserve and cache - self._sum - self._reserved < decoding * pace:
                return None
            if left and lost is not None and lost(left):
                return False
            now = end

    def _admit(self, head: int, steps: int) -> None:
        """`Worker._admit`: take up those who wait while there is room."""
        schedule, prompt, output, prefills = self.schedule, self.requests.prompt, self.requests.output, self.prefills
        cache, reserve, place = schedule.cache_tokens, schedule.reserve_output, self._admitted
        most, kept = schedule.max_sequences, 0.01 * cache
        while place < self._arrived and self._decoding + (place - head if prefills else 0) < most:
            need = prompt[place] + (output[place] if reserve and self.decodes else 1)
            if self._decoding or (prefills and place > head):
                used = self._reserved
                if not reserve:
                    used = used + self._sum + max(kept, 16.0 * self._decoding)
                if used + need > cache:
                    break
            if prefills or reserve:
                self._reserved += need
            if not prefills:
                self._join(place, steps)
            place += 1
        self._admitted = place

    def _prompt_step(self, head: int, done: int, mixed: int) -> tuple[int, int, float]:
        """The prompt after the last that a step ends, how much of that one is done with it, and the step's seconds;
        `done` is how much is of the first prompt that is not ended, `mixed` how many decodes are beside."""
        table, schedule, prompt, cached = self.table, self.schedule, self.requests.prompt, self.requests.cached
        budget, taken, pairs = schedule.token_budget - mixed * table.cost.tokens_checked, 0, 0.0
        place, rest, at = head, 0, done or cached[head]
        while place < self._admitted:
            chunk = prompt[place] - at
            if schedule.whole_prompts:
                if taken and taken + chunk > budget:
                    break
            elif chunk > budget - taken:
                chunk = budget - taken
                if chunk > 0:
                    pairs += table.pairs_seconds(at, chunk)
                    taken, rest = budget, at + chunk
                break
            pairs += table.pairs_seconds(at, chunk)
            taken += chunk
            place += 1
            if taken >= budget or place == self._admitted:
                break
            at = cached[place]
        number = place - head + (rest > 0)
        if not number:
            return head, 0, 0.0
        seconds = table.loaded(mixed, taken, number)
        if mixed:
            seconds += table.read_s * self._sum + self._window_sum
        return place, rest, seconds + pairs * table.fullest(number)

    def _prompts_done(self, ended: range, number: int, at: tuple[float, float, int]) -> list[int]:
        """`Worker._prompt_done` of the prompts that a step of so many ended: those who leave with that."""
        requests, reserve, cost = self.requests, self.schedule.reserve_output, self.table.cost
        start, end, steps = at
        first = end + cost.fill / min(number, cost.pp) * (end - start)
        left: list[int] = []
        for request in ended:
            requests.first[request] = first
            prompt, output = requests.prompt[request], requests.output[request]
            if not reserve:
                self._reserved -= prompt + 1
            if self.decodes and output > 1:
                self._join(request, steps)
                continue
            if reserve:
                self._reserved -= prompt + (output if self.decodes else 1)
            requests.finish[request] = max(end, first)
            left.append(request)
        return left

    def _join(self, request: int, steps: int) -> None:
        """`Worker._join`."""
        output, context, pace = self.requests.output[request], self.requests.prompt[request] + 1, self._pace
        left = max(1, output - 1 if pace == 1.0 else math.ceil((output - 1) / pace - 1e-9))
        last = steps + left
        same = self._ending.get(last)
        if same is None:
            self._ending[last] = [(request, context + left * pace)]
            heappush(self._ends, last)
        else:
            same.append((request, context + left * pace))
        self._decoding += 1
        self._sum += context
        if self.table.windows:
            self._window_sum += self.table.window_seconds(context + output / 2)

    def _leave(self, last: int, end: float) -> list[int]:
        """`Worker._finish`: those whose last token came in a step."""
        leaving, requests, windows = self._ending.pop(last), self.requests, self.table.windows
        leaving.sort()
        self._decoding -= len(leaving)
        for request, held in leaving:
            requests.finish[request] = end
            self._sum -= held
            if windows:
                context, output = requests.prompt[request] + 1, requests.output[request]
                self._window_sum -= self.table.window_seconds(context + output / 2)
            if self.schedule.reserve_output:
                self._reserved -= requests.prompt[request] + requests.output[request]
        if not self._decoding:
            self._sum = 0.0
        return [request for request, _ in leaving]
