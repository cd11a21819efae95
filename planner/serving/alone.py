"""One worker alone under requests that come at their own times, as long as it need not preempt any.

Its steps are those of `Worker`, which `simulation` runs. Requests are taken up and their prompts done in order of
arrival, so that a few places in that order say who waits and who is computed; those whose last token comes in the same
step leave together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

from .running import Requests, Running
from .worker import Worker, steps_within

Lost = Callable[[Sequence[int]], bool]


class Alone(Running):
    """A run of such requests through a worker, who has done nothing yet; `busy_s` is how long its steps took."""

    def __init__(self, worker: Worker, requests: Requests, arrival: Sequence[float]) -> None:
        super().__init__(worker.table, worker.schedule, requests, worker.decodes)
        self.prefills, self.arrival = worker.prefills, arrival
        self.busy_s = 0.0

    def advance(self, lost: Lost | None) -> bool | None:
        """Run to the end, or until the run is lost: whether it came to its end. None where a sequence would have to be
        preempted, which this run cannot do."""
        arrival, number, table, prefills = self.arrival, len(self.arrival), self.table, self.prefills
        plains, read_s, cost, firsts = table.plains, table.read_s, table.cost, self.requests.first
        pace, ends, reserve, cache = self._pace, self._ends, self._reserve, self.schedule.cache_tokens
        mixes, fill, pp = self.schedule.policy == "mixed", cost.fill, cost.pp
        now, head, done, admitted, arrived = 0.0, 0, 0, 0, 0
        while True:
            if admitted < arrived:
                admitted = self._admit(head, admitted, arrived)
            decoding, stop, rest = self._decoding, head, 0
            if prefills and head < admitted:
                stop, rest, seconds = self._prompt_step(head, done, admitted, decoding if mixes else 0)
            if stop > head or rest:
                leap = 1 if mixes and decoding else 0
                end = now + seconds
            elif decoding:
                base = plains.get(decoding) or table.plain(decoding)
                base = base + self._window_sum + read_s * self._sum
                leap, growth = ends[0] - self._steps, decoding * pace
                if not reserve:
                    room = cache - self._sum - self._reserved
                    if growth * leap > room:
                        leap = max(1, int(room / growth))
                growth = read_s * decoding * pace
                end = now + (leap * base + growth * leap * (leap - 1) / 2)
                if leap > 1 and arrived < number and admitted == arrived and arrival[arrived] <= end:
                    leap = min(leap, steps_within(base, growth, arrival[arrived] - now))
                    end = now + (leap * base + growth * leap * (leap - 1) / 2)
            elif arrived == number:
                return True
            else:
                now = arrival[arrived]
                arrived = bisect_right(arrival, now, arrived)
                continue
            if arrived < number and arrival[arrived] <= end:
                arrived = bisect_right(arrival, end, arrived)
            self.busy_s += end - now
            left: list[int] = []
            if leap:
                self._steps += leap
                self._sum += decoding * pace * leap
                if ends and ends[0] <= self._steps:
                    left = self._leave(end)
            if stop > head or rest:
                first = end + fill / min(stop - head + (rest > 0), pp) * (end - now)
                for request in range(head, stop):
                    firsts[request] = first
                    if self._prompt_done(request, end):
                        left.append(request)
                head, done = stop, rest
            decoding = self._decoding
            if decoding > 1 and not reserve and cache - self._sum - self._reserved < decoding * pace:
                return None
            if left and lost is not None and lost(left if self.decodes else self._ended(left)):
                return False
            now = end

    def _ended(self, left: Sequence[int]) -> list[int]:
        """Of those that leave a worker that only prefills, those that are not handed over."""
        return [request for request in left if self.requests.output[request] <= 1]

    def _admit(self, head: int, place: int, arrived: int) -> int:
        """`Worker._admit`: take up those from a place on who have arrived, while there is room; who still waits."""
        reserve, prefills, prompt, cache = (
            self._reserve,
            self.prefills,
            self.requests.prompt,
            self.schedule.cache_tokens,
        )
        most, kept = self.schedule.max_sequences, 0.01 * cache
        while place < arrived and self._decoding + (place - head if prefills else 0) < most:
            need = self._need(place) if reserve else prompt[place] + 1
            if self._decoding or (prefills and place > head):
                used = self._reserved
                if not reserve:
                    free = 16.0 * self._decoding
                    used = used + self._sum + (free if free > kept else kept)
                if used + need > cache:
                    break
            if prefills or reserve:
                self._reserved += need
            if not prefills:
                self._join(place)
            place += 1
        return place

    def _prompt_step(self, head: int, done: int, admitted: int, mixed: int) -> tuple[int, int, float]:
        """The prompt after the last that a step ends, how much of that one is done with it, and the step's seconds;
        `done` is how much is of the first prompt that is not ended, `mixed` how many decodes are beside."""
        table, schedule, prompt, cached = self.table, self.schedule, self.requests.prompt, self.requests.cached
        budget, taken, pairs = schedule.token_budget - mixed * table.cost.tokens_checked, 0, 0.0
        place, rest, at = head, 0, done or cached[head]
        while place < admitted:
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
            if taken >= budget or place == admitted:
                break
            at = cached[place]
        number = place - head + (rest > 0)
        if not number:
            return head, 0, 0.0
        seconds = table.loads.get((mixed, taken, number)) or table.loaded(mixed, taken, number)
        if mixed:
            seconds += table.read_s * self._sum + self._window_sum
        return place, rest, seconds + (pairs * table.fullest(number) if number > 1 else pairs)
