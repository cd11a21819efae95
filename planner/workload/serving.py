"""A serving load and its latency targets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .experts import ExpertLoad
from .serving_layout import LayoutConstraints, Speculation, quantization

MAX_TOKENS = 100_000_000
MAX_RATE = 1e7
MAX_CONCURRENCY = 1_000_000
MAX_WEIGHT = 1e12

Metric = Literal["ttft", "tpot", "e2e"]


class Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Latency targets, each to be met at `percentile` of all requests; None leaves a latency free.

    TTFT counts from arrival, queueing included; TPOT is a request's mean time between its output tokens.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    percentile: float = 99.0

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "percentile", float(self.percentile))
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            value = getattr(self, name)
            if value is not None:
                msgspec.structs.force_setattr(self, name, float(value))
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"targets.{name} must be a positive finite number but got {value}")
        if not 0 < self.percentile < 100:
            raise InputError(f"targets.percentile must be between 0 and 100 but got {self.percentile}")

    def scaled(self, factor: float) -> Targets:
        """The same targets, each times a factor."""
        limits = {f"{name}_s": value * factor for name, value in self.limits().items()}
        return Targets(percentile=self.percentile, **limits)

    def limits(self) -> dict[Metric, float]:
        """The targets that are set, by metric."""
        named: tuple[tuple[Metric, float | None], ...] = (
            ("ttft", self.ttft_s),
            ("tpot", self.tpot_s),
            ("e2e", self.e2e_s),
        )
        return {name: value for name, value in named if value is not None}


class LengthBin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A share of the requests, all of one prompt and one output length."""

    isl: int
    osl: int
    weight: float = 1.0


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Requests of given lengths, arriving at a Poisson `rate_per_s` or kept at `concurrency` in a closed loop.

    `lengths` replaces isl/osl by a distribution. `spread` s draws each length uniformly from [1 − s, 1] of its nominal
    value. `cached` is the share of each prompt found in the prefix cache. `rounds` is how many times the concurrency a
    closed-loop run sends in all (published benchmarks use 10).

    Raises InputError when a number is missing or absurd.
    """

    isl: int = 0
    osl: int = 0
    rate_per_s: float | None = None
    concurrency: int | None = None
    lengths: tuple[LengthBin, ...] = ()
    spread: float = 0.0
    cached: float = 0.0
    rounds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rate_per_s is not None:
            msgspec.structs.force_setattr(self, "rate_per_s", float(self.rate_per_s))
        if not self.lengths:
            msgspec.structs.force_setattr(self, "lengths", (LengthBin(isl=self.isl, osl=self.osl),))
        elif (self.isl or self.osl) and [(self.isl, self.osl)] != [(each.isl, each.osl) for each in self.lengths]:
            raise InputError("load.isl and load.osl are of one length: leave them out beside load.lengths")
        for place, each in enumerate(self.lengths):
            _whole(f"load.lengths[{place}].isl", each.isl, MAX_TOKENS)
            _whole(f"load.lengths[{place}].osl", each.osl, MAX_TOKENS)
            if not 0 < each.weight <= MAX_WEIGHT:
                raise InputError(
                    f"load.lengths[{place}].weight must be above 0 and at most {MAX_WEIGHT:g} but got {each.weight}"
                )
        if (self.rate_per_s is None) == (self.concurrency is None):
            raise InputError("load needs either a rate or a concurrency, and only one of them")
        if self.rate_per_s is not None and not 0 < self.rate_per_s <= MAX_RATE:
            raise InputError(f"load.rate_per_s must be positive and at most {MAX_RATE:g} but got {self.rate_per_s}")
        if self.concurrency is not None:
            _whole("load.concurrency", self.concurrency, MAX_CONCURRENCY)
        for name in ("spread", "cached"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"load.{name} must be at least 0 and less than 1 but got {getattr(self, name)}")
        _whole("load.rounds", self.rounds, 1000)
        _seed("load.seed", self.seed)

    @property
    def mean_isl(self) -> float:
        """Mean prompt tokens of a request."""
        return self._mean("isl")

    @property
    def mean_osl(self) -> float:
        """Mean output tokens of a request."""
        return self._mean("osl")

    @property
    def longest(self) -> int:
        """The most tokens one request occupies."""
        return max(each.isl + each.osl for each in self.lengths)

    def _mean(self, name: str) -> float:
        total = sum(each.weight for each in self.lengths)
        nominal: float = sum(each.weight * getattr(each, name) for each in self.lengths) / total
        return nominal * (1 - self.spread / 2)

    def sample(self, requests: int) -> Trace:
        """A trace of that many requests: Poisson arrivals at the rate, or all at time 0 for a closed loop."""
        rng = np.random.default_rng(self.seed)
        weights = np.array([each.weight for each in self.lengths])
        chosen = rng.choice(len(weights), size=requests, p=weights / weights.sum())
        isl = np.array([each.isl for each in self.lengths])[chosen]
        osl = np.array([each.osl for each in self.lengths])[chosen]
        if self.spread:
            low = 1 - self.spread
            isl = np.maximum(1, np.rint(isl * rng.uniform(low, 1, requests))).astype(np.int64)
            osl = np.maximum(1, np.rint(osl * rng.uniform(low, 1, requests))).astype(np.int64)
        arrival = np.zeros(requests)
        if self.rate_per_s is not None:
            arrival = np.cumsum(rng.exponential(1 / self.rate_per_s, requests))
        return Trace(
            arrival_s=arrival,
            prompt_tokens=isl,
            output_tokens=osl,
            cached_tokens=np.minimum(np.floor(isl * self.cached).astype(np.int64), isl - 1),
        )


Objective = Literal["throughput", "gpus", "cost", "latency", "energy"]
SearchMode = Literal["auto", "aggregated", "disaggregated", "shared", "afd"]
ENGINES = ("vllm", "sglang", "trtllm", "turbomind", "neuronx")
OBJECTIVES: tuple[Objective, ...] = ("throughput", "gpus", "cost", "latency", "energy")


class ServingJob(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be served: the load, its targets, number formats, engine, and what the best deployment is.

    `objective`: `throughput` carries as much as the cluster can within the targets (at a concurrency: the most tokens
    per second), `gpus` the load on the fewest devices, `cost` at the lowest price, `latency` with the lowest mean
    end-to-end latency, `energy` with the fewest joules per token; None chooses `gpus` for a rate and `throughput` for a
    concurrency. `most_devices` leaves part of the cluster unused; `operators` names measured operator tables to use
    where they have an answer. `expert_imbalance` is the load of the fullest expert rank over the mean, such as the
    load ratio of an expert placement; None takes what was fitted of the engine. `expert_load` says more of a placement.
    """

    load: Load
    targets: Targets = Targets()
    objective: Objective | None = None
    mode: SearchMode = "auto"
    engine: str = "vllm"
    engine_version: str = ""
    quantization: str = "bf16"
    speculation: Speculation | None = None
    constraints: LayoutConstraints = LayoutConstraints()
    most_devices: int | None = None
    operators: str | None = None
    expert_imbalance: float | None = None
    expert_load: ExpertLoad | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        quantization(self.quantization)
        if self.expert_imbalance is not None and self.expert_load is not None:
            raise InputError("job.expert_imbalance and job.expert_load both give the imbalance: leave one out")
        if self.expert_imbalance is not None:
            msgspec.structs.force_setattr(self, "expert_imbalance", float(self.expert_imbalance))
            if not 1 <= self.expert_imbalance <= 1000:
                raise InputError(f"job.expert_imbalance must be from 1 to 1000 but got {self.expert_imbalance}")
        _seed("job.seed", self.seed)
        if self.most_devices is not None and self.most_devices < 1:
            raise InputError(f"job.most_devices must be at least 1 but got {self.most_devices}")

    @property
    def goal(self) -> Objective:
        """The objective, chosen by the load where none is given."""
        return self.objective or ("gpus" if self.load.rate_per_s is not None else "throughput")


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; `cached_tokens` of each prompt are found in the prefix cache."""

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    cached_tokens: NDArray[np.int64]
    name: str = ""

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def rate_per_s(self) -> float:
        """Mean arrivals per second; a burst that arrives at once has an infinite rate."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else math.inf

    def burst(self, windows: int = 60) -> float:
        """How much faster than on average requests arrive in the busier windows of the trace (its 90th percentile)."""
        if self.duration_s <= 0 or len(self) < 10 * windows:
            return 1.0
        counts = np.histogram(self.arrival_s, bins=windows)[0]
        return max(1.0, float(np.percentile(counts, 90) / counts.mean()))

    def part(self, chosen: NDArray[np.int64] | slice) -> Trace:
        """The chosen requests alone."""
        return Trace(
            self.arrival_s[chosen],
            self.prompt_tokens[chosen],
            self.output_tokens[chosen],
            self.cached_tokens[chosen],
            self.name,
        )


def _whole(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most} but got {value}")


def _seed(name: str, value: int) -> None:
    if not 0 <= value < 2**63:
        raise InputError(f"{name} must be a whole number from 0 to 2^63 - 1 but got {value}")
