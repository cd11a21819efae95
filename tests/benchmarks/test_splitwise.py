"""The measured rows as step times, the search for the fewest machines, and what designs cost."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.splitwise import DESIGNS, MODELS, Bench, Machine, least, load
from shardwright.planner.workload.serving import Trace


def rows(hardware: str, factor: float) -> list[dict[str, str]]:
    """Prompts of 1 ms a token, and steps that take 10 ms and 1 ms more for every sequence."""
    prompts = [(size, 1, 128, size, 11) for size in (128, 512, 1024)]
    decodes = [(512, batch, 128, 512 * batch, 10 + batch) for batch in (2, 8, 64)]
    return [
        {
            "model": "llama2-70b", "hardware": hardware, "tensor_parallel": "8", "prompt_size": str(size),
            "batch_size": str(batch), "token_size": str(out), "prefill_ms": str(first * factor),
            "decode_ms": str(step * factor),
        }
        for size, batch, out, first, step in prompts + decodes
    ]  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Bench:
    trace = Trace(
        arrival_s=np.arange(4.0),
        prompt_tokens=np.array([100, 200, 300, 400]),
        output_tokens=np.array([10, 20, 30, 40]),
        cached_tokens=np.zeros(4, dtype=np.int64),
    )
    return Bench("llama2-70b", rows("a100-80gb", 1.0) + rows("h100-80gb", 0.5), load(trace, 4.0))


def test_times_are_those_measured_and_linear_between_and_beyond():
    machine = Machine(rows("a100-80gb", 1.0), "llama2-70b", "a100-80gb")
    assert machine.prompt_s(np.array([64, 512, 768, 2048])).tolist() == pytest.approx([0.128, 0.512, 0.768, 2.048])
    assert machine.decode_s(np.array([1, 5, 64])).tolist() == pytest.approx([0.011, 0.015, 0.074])


@pytest.mark.parametrize(("needed", "busy"), [(1, 0.2), (7, 3.4), (7, 7.9), (40, 2.0)])
def test_the_fewest_machines_are_found_from_any_start(needed, busy):
    start = min(busy, needed)
    assert least(lambda n: n >= needed, start) == needed


def test_no_number_of_machines_may_do():
    assert least(lambda n: False, 3.0) is None


def test_the_fewest_machines_meet_the_targets_and_one_less_does_not(bench):
    split = next(design for design in DESIGNS if design.name == "Splitwise-HH")
    prompts, tokens = bench.fewest(split)
    assert bench.meets(bench.run(split, prompts, tokens), ("ttft", "tpot", "e2e"))
    assert prompts == 1 or not bench.meets(bench.run(split, prompts - 1, 100), ("ttft",))


def test_slower_machines_are_never_fewer(bench):
    sizes = {design.name: bench.fewest(design) for design in DESIGNS}
    assert sum(sizes["Splitwise-AA"]) >= sum(sizes["Splitwise-HA"]) >= sum(sizes["Splitwise-HH"])
    assert sizes["Splitwise-HH"] == sizes["Splitwise-HHcap"]


def test_a_cap_saves_power_and_no_cost():
    plain, capped = (next(d for d in DESIGNS if d.name == name) for name in ("Splitwise-HH", "Splitwise-HHcap"))
    assert plain.cost(2, 3) == capped.cost(2, 3) == 5 * 38.0
    assert capped.watts(2, 3) == pytest.approx(plain.watts(2, 3) - 0.3 * 3 * 5600)


def test_models_fit_a_machine():
    assert all(weights < 8 * 80e9 * 0.9 for _, weights, _ in MODELS.values())
