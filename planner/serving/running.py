"""The sequences that a simulated worker decodes: who they are, what they hold of the cache, and when they end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush

from ..workload.serving import Trace
from .schedule import Schedule, StepTable


class Requests:
    """What all workers of a run share: when requests come, their lengths, and when their tokens came.

    A preempted request comes back with what it has generated as part of its prompt; `asked` keeps the output asked for.
    The first of them, `begun`, are on their way already when the run starts.
    """

    __slots__ = ("arrival", "asked", "begun", "cached", "finish", "first", "output", "prompt")

    def __init__(self, trace: Trace, begun: int = 0) -> None:
        self.arrival: list[float] = trace.arrival_s.tolist()
        self.prompt: list[int] = trace.prompt_tokens.tolist()
        self.asked: list[int] = trace.output_tokens.tolist()
        self.cached: list[int] = trace.cached_tokens.tolist()
        self.begun, self.output = begun, list(self.asked)
        self.first, self.finish = [math.nan] * len(trace), [math.nan] * len(trace)

    def part(self, chosen: Sequence[int]) -> Requests:
        """Those chosen, in that order, as they are now; those on their way must come first."""
        part = object.__new__(Requests)
        for name in ("arrival", "asked", "cached", "finish", "first", "output", "prompt"):
            values = getattr(self, name)
            setattr(part, name, [values[request] for request in chosen])
        part.begun = sum(request < self.begun for request in chosen)
        return part


class Running:
    """Sequences that all decode in every step, joined and left at its end; those that end together are kept together.

    `_steps` counts steps, `_sum` the tokens cached of all sequences, `_window_sum` the seconds of a step that their
    windowed layers take, and `_reserved` the cache kept for requests that do not fill it yet.
    """

    __slots__ = (
        "_decoding",
        "_ending",
        "_ends",
        "_pace",
        "_reserve",
        "_reserved",
        "_steps",
        "_sum",
        "_window_sum",
        "decodes",
        "requests",
        "schedule",
        "table",
    )

    def __init__(self, table: StepTable, schedule: Schedule, requests: Requests, decodes: bool) -> None:
        self.table, self.schedule, self.requests, self.decodes = table, schedule, requests, decodes
        self._pace, self._reserve = table.cost.tokens_per_step, schedule.reserve_output
        self._ends: list[int] = []  # heap of the steps in which sequences have their last token
        self._ending: dict[
            int, list[tuple[int, float, int]]
        ] = {}  # who, the cache they hold then, the step they joined
        self._decoding = self._steps = 0
        self._sum = self._window_sum = self._reserved = 0.0

    def _need(self, request: int) -> int:
        """Cache tokens a request takes when it is admitted."""
        requests = self.requests
        return requests.prompt[request] + (requests.output[request] if self._reserve and self.decodes else 1)

    def _join(self, request: int) -> None:
        output, context, pace = self.requests.output[request], self.requests.prompt[request] + 1, self._pace
        left = output - 1 if pace == 1.0 else math.ceil((output - 1) / pace - 1e-9)
        left = left if left > 1 else 1
        steps, ending = self._steps, self._ending
        last = steps + left
        if last in ending:
            ending[last].append((request, context + left * pace, steps))
        else:
            ending[last] = [(request, context + left * pace, steps)]
            heappush(self._ends, last)
        self._decoding += 1
        self._sum += context
        if self.table.windows:
            self._window_sum += self.table.window_seconds(context + output / 2)

    def _prompt_done(self, request: int, now: float) -> bool:
        """Decode a request whose prompt is done and whose first token has come; whether it leaves instead."""
        requests = self.requests
        if not self._reserve:
            self._reserved -= requests.prompt[request] + 1
        if self.decodes and requests.output[request] > 1:
            self._join(request)
            return False
        if self._reserve:
            self._reserved -= self._need(request)
        requests.finish[request] = max(now, requests.first[request])
        return True

    def _leave(self, now: float) -> list[int]:
        """Take out the sequences that have had their last token."""
        leaving, finish = self._ending.pop(heappop(self._ends)), self.requests.finish
        if len(leaving) > 1:
            leaving.sort()
        self._decoding -= len(leaving)
        kept, released = self._sum, self.table.windows or self._reserve
        done: list[int] = []
        for request, held, _ in leaving:
            finish[request] = now
            kept -= held
            done.append(request)
            if released:
                self._release(request)
        self._sum = kept if self._decoding else 0.0
        return done

    def _release(self, request: int) -> None:
        if self.table.windows:
            context, output = self.requests.prompt[request] + 1, self.requests.output[request]
            self._window_sum -= self.table.window_seconds(context + output / 2)
        if self._reserve:
            self._reserved -= self._need(request)

    def _preempt(self) -> tuple[int, int]:
        """Take out the youngest sequence, and how many tokens it has generated."""
        joined = ((step, request, last) for last, same in self._ending.items() for request, _, step in same)
        step, request, last = max(joined)
        self._ending[last] = [each for each in self._ending[last] if each[0] != request]
        generated = (self._steps - step) * self._pace
        self._decoding -= 1
        self._sum -= self.requests.prompt[request] + 1 + generated
        if not self._decoding:
            self._sum = 0.0
        self._release(request)
        return request, int(generated)
