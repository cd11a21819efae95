"""One simulated worker: continuous batching that leaps over steps in which the batch does not change."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from heapq import heappop, heappush

from .schedule import Schedule, StepTable

_IDLE = math.inf


class Requests:
    """What all workers of a run share: lengths of every request, and when its tokens came.

    A preempted request comes back with what it has generated as part of its prompt.
    """

    __slots__ = ("cached", "finish", "first", "output", "prompt")

    def __init__(self, prompt: Sequence[int], output: Sequence[int], cached: Sequence[int]) -> None:
        self.prompt = list(prompt)
        self.output = list(output)
        self.cached = list(cached)
        self.first = [math.nan] * len(prompt)
        self.finish = [math.nan] * len(prompt)


class Worker:
    """A copy of the model under a schedule, on its own clock.

    `plan` decides what happens next and returns when it ends; `commit` carries it out and returns the requests that
    left. A leap over equal decode steps may be cut short by `interrupt`. Within a leap the batch and its growth per
    step are constant, so k steps take k·(base + read·S) + read·growth·k(k−1)/2 seconds with S cached tokens at its
    start. `prefills`/`decodes` make it a worker of one phase.
    """

    __slots__ = (
        "_base",
        "_batch",
        "_decoding",
        "_finishing",
        "_joined",
        "_leap",
        "_pace",
        "_prompts",
        "_reserved",
        "_start",
        "_steps",
        "_sum",
        "_window_sum",
        "_windowed",
        "busy_s",
        "decodes",
        "end",
        "load",
        "preemptions",
        "prefills",
        "requests",
        "schedule",
        "stamp",
        "table",
        "waiting",
    )

    def __init__(
        self, table: StepTable, schedule: Schedule, requests: Requests, *, prefills: bool = True, decodes: bool = True
    ) -> None:
        self.table, self.schedule, self.requests = table, schedule, requests
        self.prefills, self.decodes = prefills, decodes
        self.waiting: deque[int] = deque()
        self._prompts: deque[list[int]] = deque()  # [request, tokens done, tokens in all]
        self._batch: list[tuple[list[int], int]] = []  # (entry of _prompts, tokens in this step)
        self._finishing: list[tuple[int, int]] = []  # heap of (step of the last token, request)
        self._joined: dict[int, tuple[int, int, int]] = {}  # request: (step joined, context then, last step)
        self._pace = table.cost.tokens_per_step
        self._decoding = self._steps = self._leap = self.preemptions = self.load = self.stamp = 0
        self._sum = self._reserved = self._base = self._window_sum = self._start = self.busy_s = 0.0
        self._windowed: dict[int, float] = {}
        self.end = _IDLE

    def plan(self, now: float) -> float:
        """Choose the next step or leap at a time and return its end; infinite when there is nothing to do."""
        if self.waiting:
            self._admit()
        self._start = now
        self._batch = []
        self._leap = 0
        table = self.table
        decoding = self._decoding
        if self._prompts:
            tokens = self._take_prompts(decoding)
        if self._batch:
            mixed = decoding if self.schedule.policy == "mixed" else 0
            seconds = table.loaded(mixed, tokens, len(self._batch))
            if mixed:
                seconds += table.read_s * self._sum + self._window_sum
            pairs = 0.0
            for entry, chunk in self._batch:
                pairs += table.pairs_seconds(entry[1], chunk)
            seconds += pairs * table.fullest(len(self._batch))
            self._leap = 1 if mixed else 0
            self.end = now + seconds
        elif decoding:
            self._base = table.plain(decoding) + self._window_sum + table.read_s * self._sum
            self._leap = self._finishing[0][0] - self._steps
            room = self.schedule.cache_tokens - self._sum - self._reserved
            growth = decoding * self._pace
            if not self.schedule.reserve_output and growth * self._leap > room:
                self._leap = max(1, int(room / growth))
            self.end = now + self._leap_seconds(self._leap)
        else:
            self.end = _IDLE
        return self.end

    def wake(self, now: float) -> float:
        """Leave idleness once all that arrives at this time has arrived: an empty step that ends at once."""
        self._start, self._leap, self._batch, self.end = now, 0, [], now
        return now

    def interrupt(self, now: float) -> float:
        """Cut a leap after the step that is running, because a request has arrived; returns the new end."""
        if self._leap <= 1 or self._batch or self.blocked:
            return self.end
        quadratic = self.table.read_s * self._decoding * self._pace / 2
        linear = self._base - quadratic
        elapsed = now - self._start
        if quadratic > 0:
            steps = (math.sqrt(linear * linear + 4 * quadratic * elapsed) - linear) / (2 * quadratic)
        else:
            steps = elapsed / linear
        self._leap = min(self._leap, max(1, math.ceil(steps - 1e-9)))
        self.end = self._start + self._leap_seconds(self._leap)
        return self.end

    @property
    def blocked(self) -> bool:
        """Whether a request that arrived could not start anyway: others wait for room."""
        return len(self.waiting) > 1

    def commit(self) -> list[int]:
        """Carry out what was planned; the requests that are done here, in order."""
        now = self.end
        self.busy_s += now - self._start
        done: list[int] = []
        if self._leap:
            self._steps += self._leap
            self._sum += self._decoding * self._pace * self._leap
            finishing, steps = self._finishing, self._steps
            while finishing and finishing[0][0] <= steps:
                step, request = heappop(finishing)
                joined = self._joined.get(request)
                if joined is not None and joined[2] == step:
                    self._leave(request)
                    self.requests.finish[request] = now
                    done.append(request)
        for entry, chunk in self._batch:
            entry[1] += chunk
            if entry[1] >= entry[2]:
                done += self._prompt_done(entry[0], now)
        prompts = self._prompts
        while prompts and prompts[0][1] >= prompts[0][2]:
            prompts.popleft()
        if not self.schedule.reserve_output and self._decoding > 1:
            self._make_room()
        self.load -= len(done)
        return done

    def _leap_seconds(self, steps: int) -> float:
        growth = self.table.read_s * self._decoding * self._pace
        return steps * self._base + growth * steps * (steps - 1) / 2

    def _need(self, request: int) -> float:
        """Cache tokens a request takes when it is admitted."""
        requests = self.requests
        if self.schedule.reserve_output and self.decodes:
            return requests.prompt[request] + requests.output[request]
        return requests.prompt[request] + 1

    def _headroom(self) -> float:
        """Cache kept free when a request is admitted, so that it is not preempted at once (vLLM keeps 1 %)."""
        return max(0.01 * self.schedule.cache_tokens, 16.0 * self._decoding)

    def _admit(self) -> None:
        schedule = self.schedule
        while self.waiting and self._decoding + len(self._prompts) < schedule.max_sequences:
            request = self.waiting[0]
            need = self._need(request)
            if self._decoding or self._prompts:
                used = self._reserved if schedule.reserve_output else self._reserved + self._sum + self._headroom()
                if used + need > schedule.cache_tokens:
                    return
            self.waiting.popleft()
            if not self.prefills:
                self._reserved += need if schedule.reserve_output else 0
                self._join(request)
                continue
            self._reserved += need
            self._prompts.append([request, self.requests.cached[request], self.requests.prompt[request]])

    def _take_prompts(self, decoding: int) -> int:
        """Fill the step's budget with prompt chunks in order of arrival; the tokens taken."""
        schedule = self.schedule
        budget = schedule.token_budget
        if schedule.policy == "mixed":
            budget -= decoding * self.table.cost.tokens_checked
        taken = 0
        for entry in self._prompts:
            left = entry[2] - entry[1]
            if schedule.whole_prompts:
                if taken and taken + left > budget:
                    break
                chunk = left
            else:
                chunk = min(left, budget - taken)
                if chunk <= 0:
                    break
            self._batch.append((entry, chunk))
            taken += chunk
            if taken >= budget:
                break
        return taken

    def _prompt_done(self, request: int, now: float) -> list[int]:
        requests = self.requests
        if math.isnan(requests.first[request]):
            cost = self.table.cost
            turns = cost.fill / min(len(self._batch), cost.pp)
            requests.first[request] = now + turns * (now - self._start)
        if not self.schedule.reserve_output:
            self._reserved -= requests.prompt[request] + 1
        if not self.decodes or requests.output[request] <= 1:
            if self.schedule.reserve_output:
                self._reserved -= self._need(request)
            requests.finish[request] = max(now, requests.first[request])
            return [request]
        self._join(request)
        return []

    def _join(self, request: int) -> None:
        requests = self.requests
        context = requests.prompt[request] + 1
        last = self._steps + max(1, math.ceil((requests.output[request] - 1) / self._pace - 1e-9))
        self._joined[request] = (self._steps, context, last)
        heappush(self._finishing, (last, request))
        self._decoding += 1
        self._sum += context
        if self.table.windows:
            seconds = self.table.window_seconds(context + requests.output[request] / 2)
            self._windowed[request] = seconds
            self._window_sum += seconds

    def _leave(self, request: int) -> int:
        """Take a decoding request out; the tokens it has generated since it joined."""
        step, context, _ = self._joined.pop(request)
        generated = (self._steps - step) * self._pace
        self._decoding -= 1
        self._sum -= context + generated
        if self._decoding == 0:
            self._sum = 0.0
        if self.table.windows:
            self._window_sum -= self._windowed.pop(request)
        if self.schedule.reserve_output:
            self._reserved -= self._need(request)
        return int(generated)

    def _make_room(self) -> None:
        """Preempt the youngest sequences while the cache cannot hold another step; they are computed again."""
        requests, schedule = self.requests, self.schedule
        while self._decoding > 1:
            room = schedule.cache_tokens - self._sum - self._reserved
            if room >= self._decoding * self._pace:
                return
            request = max(self._joined, key=lambda each: (self._joined[each][0], each))
            generated = self._leave(request)
            requests.prompt[request] += generated
            requests.output[request] = max(requests.output[request] - generated, 1)
            requests.cached[request] = 0
            self.waiting.appendleft(request)
            self.preemptions += 1
