"""Requests of a run that miss a target, counted until none of its percentiles can hold any more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..workload.serving import Metric, Targets
from .lone import allowed_misses
from .running import Requests


class Misses:
    """Counts requests that miss a target until no percentile of the whole run can meet it any more."""

    def __init__(self, requests: Requests, targets: Targets, request_s: float) -> None:
        limits = targets.limits()
        self.ttft_s, self.tpot_s, self.e2e_s = (limits.get(name, math.inf) for name in ("ttft", "tpot", "e2e"))
        self.request_s = request_s
        several = sum(each > 1 for each in requests.asked[requests.begun :])
        counted = {name: several if name == "tpot" else len(requests.asked) - requests.begun for name in limits}
        self.left = {name: allowed_misses(n, targets.percentile) for name, n in counted.items() if n}

    def lost(self, requests: Requests, done: Sequence[int]) -> bool:
        """Whether the run is lost with these requests, which have ended."""
        for request in done:
            if request < requests.begun:
                continue
            arrival, first, finish = requests.arrival[request], requests.first[request], requests.finish[request]
            steps = requests.asked[request] - 1
            if (
                (first - arrival + self.request_s > self.ttft_s and self._lost("ttft"))
                or (finish - arrival + self.request_s > self.e2e_s and self._lost("e2e"))
                or (steps and (finish - first) / steps > self.tpot_s and self._lost("tpot"))
            ):
                return True
        return False

    def late(self, requests: Requests, handed: Sequence[int]) -> bool:
        """Whether so many of these requests, which have had their first token but not ended, came too late for it that
        the run is lost."""
        late = sum(
            requests.first[request] - requests.arrival[request] + self.request_s > self.ttft_s
            for request in handed
            if request >= requests.begun
        )
        return late >= self.left.get("ttft", len(handed) + 1)

    def _lost(self, name: Metric) -> bool:
        self.left[name] -= 1
        return self.left[name] <= 0
