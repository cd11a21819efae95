"""Four designs of prompt and token pools, ranked on the measured rows of A100 and H100 machines.

    python -m benchmarks.splitwise DIR [--rate 70]

DIR is the folder of the reference data: `profiles/splitwise` (measured prompt and token times, Patel et al. 2024,
tensor parallel 8) and Azure's conversation and code traces (`traces/azure`). Every design gets the fewest machines that
meet the paper's targets at the rate: slowdowns of every request's TTFT, TBT and end-to-end time over an idle A100
machine, at three percentiles. Requests arrive at random times for one minute with the lengths of the trace;
planner/serving's simulation batches them. Batches are no larger than the 64 sequences and 2,048 prompt tokens that the
measurements cover well.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shardwright.planner import load_trace
from shardwright.planner.costs.serving.formulas import TOKEN_GRID, StepCost
from shardwright.planner.serving.schedule import Schedule, StepTable
from shardwright.planner.serving.simulation import Deployment, Outcome, simulate
from shardwright.planner.serving.turns import Pool
from shardwright.planner.workload.serving import Trace

TARGETS = {
    "ttft": {50: 2.0, 90: 3.0, 99: 6.0},
    "tpot": {50: 1.25, 90: 1.5, 99: 5.0},
    "e2e": {50: 1.25, 90: 1.5, 99: 5.0},
}
"""Most slowdown by percentile (the paper's targets)."""
USD_PER_HOUR = {"a100-80gb": 17.6, "h100-80gb": 38.0}
WATTS = {"a100-80gb": 8 * 400.0, "h100-80gb": 8 * 700.0}
"""Rent of a machine of eight and the rated power of its GPUs (table I)."""
LINK_BYTES_PER_S = {"a100-80gb": 25e9, "h100-80gb": 50e9}
CAP = 0.7
"""Share of its power that a capped token machine keeps (Splitwise-HHcap); its token times stay the same."""
MODELS = {"llama2-70b": (80, 2 * 69e9, 2 * 80 * 1024 * 2), "bloom-176b": (70, 2 * 176e9, 2 * 70 * 14336 * 2)}
"""Layers, bytes of weights, and bytes of keys and values per token, in 16 bits."""
MEMORY_BYTES = 0.9 * 8 * 80e9
SEQUENCES, PROMPT_TOKENS = 64, 2048
SECONDS = 60.0
MOST_MACHINES = 400
PLENTY = 100


@dataclass(frozen=True)
class Design:
    """Machines of prompts and of tokens; no token machine means that every machine does both."""

    name: str
    prompt: str
    token: str = ""
    cap: float = 1.0

    def cost(self, prompts: int, tokens: int) -> float:
        """Dollars per hour."""
        return prompts * USD_PER_HOUR[self.prompt] + tokens * USD_PER_HOUR.get(self.token, 0.0)

    def watts(self, prompts: int, tokens: int) -> float:
        """Rated power of the GPUs, caps counted."""
        return prompts * WATTS[self.prompt] + tokens * WATTS.get(self.token, 0.0) * self.cap


A, H = "a100-80gb", "h100-80gb"
DESIGNS = (
    Design("Baseline-A100", A),
    Design("Baseline-H100", H),
    Design("Splitwise-AA", A, A),
    Design("Splitwise-HH", H, H),
    Design("Splitwise-HA", H, A),
    Design("Splitwise-HHcap", H, H, CAP),
)


class Machine:
    """Measured seconds of one machine: a prompt by its tokens, a step of decoding by its sequences."""

    def __init__(self, rows: list[dict[str, str]], model: str, hardware: str) -> None:
        mine = [
            {name: float(row[name]) for name in ("prompt_size", "batch_size", "token_size", "prefill_ms", "decode_ms")}
            for row in rows
            if (row["model"], row["hardware"], row["tensor_parallel"]) == (model, hardware, "8")
        ]
        prompts = sorted({r["prompt_size"]: r["prefill_ms"] for r in mine if r["batch_size"] == 1}.items())
        decodes = sorted(
            {r["batch_size"]: r["decode_ms"] for r in mine if (r["prompt_size"], r["token_size"]) == (512, 128)}.items()
        )
        self.prompt, self.decode = np.array(prompts).T, np.array(decodes).T

    def prompt_s(self, tokens: np.ndarray) -> np.ndarray:
        """Seconds of prompts; below the shortest measured as long as that one, above the longest on its slope."""
        x, y = self.prompt
        over = np.maximum(tokens - x[-1], 0) * (y[-1] - y[-2]) / (x[-1] - x[-2])
        return np.asarray((np.interp(tokens, x, y) + over) / 1e3)

    def decode_s(self, sequences: np.ndarray) -> np.ndarray:
        """Seconds of a step for every sequence's next token."""
        return np.asarray(np.interp(sequences, *self.decode) / 1e3)

    def table(self, prompts: bool, tokens: bool) -> StepTable:
        """Step times by tokens in the step: of prompts, of decoding, or of both together."""
        grid = TOKEN_GRID
        if not tokens:
            own = self.prompt_s(grid)
        elif not prompts:
            own = self.decode_s(grid)
        else:
            own = np.maximum(self.decode_s(grid), np.where(grid > SEQUENCES, self.prompt_s(grid), 0.0))
        zero = np.zeros_like(grid)
        return StepTable(
            StepCost(
                own_s=own, stage_s=zero, head_s=zero, contexts=(), launch_s=0.0, decode_launch_s=0.0, step_s=0.0,
                prompt_s=0.0, sequence_s=0.0, prefill_s=0.0, token_s=0.0, request_s=0.0, overlap=False, fill=0,
                groups=1, pp=1, cp=1, tokens_per_step=1.0, tokens_checked=1, draft=0.0,
            )
        )  # fmt: skip


class Bench:
    """One model and one trace at one rate: simulated slowdowns and the fewest machines of a design."""

    def __init__(self, model: str, rows: list[dict[str, str]], requests: Trace) -> None:
        self.machines = {hardware: Machine(rows, model, hardware) for hardware in (A, H)}
        layers, weights, self.token_bytes = MODELS[model]
        self.exposed = self.token_bytes / layers  # all but the last layer's cache travels under the prompt
        self.cache = (MEMORY_BYTES - weights) / self.token_bytes
        self.requests = requests
        idle = self.machines[A]
        first, step = idle.prompt_s(requests.prompt_tokens), idle.decode_s(np.ones(1))[0]
        self.idle = {"ttft": first, "tpot": step, "e2e": first + step * (requests.output_tokens - 1)}

    def _pool(self, hardware: str, workers: int, prompts: bool, tokens: bool) -> Pool:
        schedule = Schedule(
            token_budget=PROMPT_TOKENS, max_sequences=SEQUENCES, cache_tokens=self.cache, whole_prompts=True
        )
        return Pool(self.machines[hardware].table(prompts, tokens), schedule, workers)

    def run(self, design: Design, prompts: int, tokens: int) -> Outcome:
        """The simulation of a design."""
        if not design.token:
            return simulate(Deployment(aggregated=(self._pool(design.prompt, prompts, True, True),)), self.requests)
        link = min(LINK_BYTES_PER_S[design.prompt], LINK_BYTES_PER_S[design.token])
        deployment = Deployment(
            prefill=(self._pool(design.prompt, prompts, True, False),),
            decode=(self._pool(design.token, tokens, False, True),),
            transfer_token_s=self.exposed / link,
        )
        return simulate(deployment, self.requests)

    def meets(self, outcome: Outcome, metrics: tuple[str, ...]) -> bool:
        """Whether the slowdowns of some metrics keep their targets."""
        for metric in metrics:
            slowdown = getattr(outcome, f"{metric}_s") / self.idle[metric]
            slowdown = slowdown[np.isfinite(slowdown)]
            if any(np.percentile(slowdown, at) > most for at, most in TARGETS[metric].items()):
                return False
        return True

    def fewest(self, design: Design) -> tuple[int, int] | None:
        """The fewest prompt machines for TTFT, then the fewest token machines for the rest; None where none do."""
        requests, rate = self.requests, self.requests.rate_per_s
        busy = rate * float(self.machines[design.prompt].prompt_s(requests.prompt_tokens).mean())
        if not design.token:
            found = least(lambda n: self.meets(self.run(design, n, 0), tuple(TARGETS)), busy)
            return None if found is None else (found, 0)
        prompts = least(lambda n: self.meets(self.run(design, n, PLENTY), ("ttft",)), busy)
        if prompts is None:
            return None
        step = float(self.machines[design.token].decode_s(np.full(1, SEQUENCES))[0])
        busy = rate * float(requests.output_tokens.mean()) * step / SEQUENCES
        tokens = least(lambda n: self.meets(self.run(design, prompts, n), tuple(TARGETS)), busy)
        return None if tokens is None else (prompts, tokens)


def least(holds: Callable[[int], bool], busy: float) -> int | None:
    """The smallest number for which a monotone condition holds, at least the machines kept busy all the time.

    None when MOST_MACHINES are not enough.
    """
    low = max(0, int(busy) - 1)
    high = low + 1
    while not holds(high):
        if high == MOST_MACHINES:
            return None
        low, high = high, min(high + max(1, high // 4), MOST_MACHINES)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def load(trace: Trace, rate: float) -> Trace:
    """Requests at random times at a rate, with lengths drawn from a trace."""
    random = np.random.default_rng(0)
    count = int(rate * SECONDS)
    chosen = random.integers(0, len(trace), count)
    return Trace(
        arrival_s=np.cumsum(random.exponential(1 / rate, count)),
        prompt_tokens=trace.prompt_tokens[chosen],
        output_tokens=trace.output_tokens[chosen],
        cached_tokens=np.zeros(count, dtype=np.int64),
        name=trace.name,
    )


def print_designs(bench: Bench, title: str, rate: float) -> None:
    """Machines, cost and power of every design at the rate, and what they carry at the baselines' cost and power."""
    sizes = {design: bench.fewest(design) for design in DESIGNS}
    bills = {d: (d.cost(*size), d.watts(*size)) for d, size in sizes.items() if size is not None}
    print(f"\n### {title}\n")
    heads = ("design", "prompt", "token", "machines", "$/h", "kW")
    bases = [design for design in DESIGNS[:2] if design in bills]
    heads += tuple(f"{what} {base.name}" for base in bases for what in ("at cost of", "at power of"))
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for design in DESIGNS:
        size = sizes[design]
        if size is None:
            print(f"| {design.name} | meets the targets with no number of machines |{' |' * (len(heads) - 2)}")
            continue
        cost, watts = bills[design]
        ratios = [ratio for base in bases for ratio in (bills[base][0] / cost, bills[base][1] / watts)]
        cells = (
            design.name,
            *(str(n) if n else "-" for n in size),
            str(sum(size)),
            f"{cost:.0f}",
            f"{watts / 1e3:.1f}",
        )
        print(f"| {' | '.join(cells)} | {' | '.join(f'{ratio:.2f}×' for ratio in ratios)} |", flush=True)
    split = [design for design in DESIGNS if design in bills and design.token]
    for base in bases:
        cost, watts = bills[base]
        cheap = max(split, key=lambda d: cost / bills[d][0])
        both = max(split, key=lambda d: min(cost / bills[d][0], watts / bills[d][1]))
        same = min(cost / bills[both][0], watts / bills[both][1])
        print(
            f"\nAgainst {base.name}: {0.8 * cost / bills[cheap][0]:.2f}× throughput at 20 % lower cost "
            f"({cheap.name}); {same:.2f}× at no more cost and no more power ({both.name})."
        )
    for what, key in (
        ("throughput (fewest machines)", lambda d: sum(sizes[d] or ())),
        ("cost", lambda d: bills[d][0]),
        ("power", lambda d: bills[d][1]),
    ):
        print(f"\nRanked by {what}: {', '.join(d.name for d in sorted(split, key=key))}.")


def main() -> int:
    """Print one table per model and trace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reference", type=Path, metavar="DIR", help="folder of the reference data")
    parser.add_argument("--rate", type=float, default=70.0, help="requests per second")
    options = parser.parse_args()
    path = options.reference / "profiles" / "splitwise" / "perf_model_medians.csv"
    if not path.is_file():
        print(f"no file {path}", file=sys.stderr)
        return 2
    with path.open() as file:
        rows = list(csv.DictReader(file))
    for model in MODELS:
        for kind in ("conv", "code"):
            trace = load_trace(str(options.reference / "traces" / "azure" / f"AzureLLMInferenceTrace_{kind}.csv"))
            print_designs(Bench(model, rows, load(trace, options.rate)), f"{model}, {kind}", options.rate)
    return 0


if __name__ == "__main__":
    sys.exit(main())
