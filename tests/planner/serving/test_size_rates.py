"""Many sizes at once carry what each of them carries alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import msgspec
import numpy as np
import pytest

from shardwright import topologies
from shardwright.planner import load_model
from shardwright.planner.serving.deployments import Link, handed_over
from shardwright.planner.serving.problem import problem_of
from shardwright.planner.serving.schedule import schedule_of
from shardwright.planner.serving.size_rates import Sizes, decode_rates, expected_rates, prefill_rates
from shardwright.planner.serving.steady import Lengths
from shardwright.planner.serving.workers import decode_rate, expected_rate, prefill_rate
from shardwright.planner.workload.serving import Load, ServingJob, Targets
from shardwright.planner.workload.serving_layout import LayoutConstraints

SIZES = [(1, 1), (40, 1), (300, 25), (2000, 600), (9000, 2000)]
TARGETS = (Targets(), Targets(ttft_s=1.0, tpot_s=0.05), Targets(ttft_s=0.2, tpot_s=0.03, e2e_s=10.0))


@pytest.mark.parametrize(
    ("model", "degrees"),
    [
        ("llama-3.1-8b", {"tp": (2,), "pp": (2,)}),
        ("gemma-3-27b", {"tp": (4,), "pp": (1,)}),
        ("mixtral-8x7b", {"tp": (2,), "pp": (1,), "attn_dp": (2,)}),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_every_size_carries_what_it_carries_alone(model, degrees, engine):
    job = ServingJob(load=Load(isl=10, osl=10, rate_per_s=1.0), engine=engine, constraints=LayoutConstraints(**degrees))
    problem = problem_of(load_model(model), topologies.cluster("dgx-h100:1"), job, None)
    worker = problem.types[0]
    isl, osl = (np.array(each, dtype=float)[:, None] for each in zip(*SIZES, strict=True))
    room = np.array([60_000.0, 3e5, 5_000.0, 8e5, 5e4])
    for targets, link in product(TARGETS, (None, Link(1e10, 1e-4))):
        sizes = Sizes(isl, osl, room[:, None])
        together = (
            expected_rates(worker, sizes, targets),
            prefill_rates(problem.setting, worker, sizes, targets, [link] * len(SIZES)),
            decode_rates(worker, sizes, targets),
        )
        for at, (prompt, output) in enumerate(SIZES):
            schedule = schedule_of(problem.setting.engine, float(room[at]), worker.layout.attn_dp)
            lengths, alone = Lengths(prompt, output), replace(worker, schedule=schedule)
            limit, most = targets, np.inf
            if link is not None:
                over = handed_over(replace(problem.setting, lengths=lengths), alone, link)
                most = link.bytes_per_s / (over.bytes_per_token * prompt)
                if targets.ttft_s is not None:
                    left = targets.ttft_s - over.exposed_s - problem.setting.engine.hand_over_s
                    limit = msgspec.structs.replace(targets, ttft_s=max(left, 1e-12))
            expected = (
                expected_rate(alone, lengths, targets),
                min(prefill_rate(alone, lengths, limit), most),
                decode_rate(alone, lengths, targets),
            )
            assert [each[at] for each in together] == pytest.approx(expected, rel=1e-12)
