"""Placements in the engines' own forms, each read back and compared with the plan and with reference files."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from shardwright.models import routing_from_counts
from shardwright.planner import ExpertRequest, InputError, InvalidPlan, export_plan, plan_experts
from shardwright.planner.experts.workloads import workloads_of
from shardwright.planner.export import (
    experts_exflow,
    experts_sglang,
    experts_tensorrt_llm,
    experts_vllm,
    experts_vllm_ascend,
)
from shardwright.planner.export.experts_slots import compare
from tests.reference import shared_file

ENGINES = ("sglang-experts", "tensorrt-llm-experts", "vllm-experts", "vllm-ascend-experts")


def small(redundant=4, dense=1):
    """A plan of two dense rows and three layers of 12 experts on 4 GPUs."""
    counts = np.random.default_rng(0).integers(1, 60, size=(3 + dense, 12))
    counts[:dense] = 0
    workloads = workloads_of([routing_from_counts("counts", counts)])
    return plan_experts(workloads, 4, ExpertRequest(objective="load", redundant=redundant))


def moe_rows(plan):
    return [[sorted(gpus) for gpus in plan.placement[layer]] for layer in plan.moe_layers]


@pytest.mark.parametrize("launcher", ENGINES)
def test_every_form_holds_every_copy_of_the_plan(launcher):
    plan = small()
    text = export_plan(plan, launcher).text
    readers = {
        "sglang-experts": lambda: experts_sglang.read(text, 4, 12)[1:],
        "tensorrt-llm-experts": lambda: experts_tensorrt_llm.read(text, 4, 12),
        "vllm-experts": lambda: experts_vllm.read(text, 4, 12),
        "vllm-ascend-experts": lambda: experts_vllm_ascend.read(text, 12),
    }
    assert readers[launcher]() == moe_rows(plan)


def test_dense_layers_keep_their_place_in_sglangs_map():
    table = json.loads(export_plan(small(), "sglang-experts").text)
    assert list(table) == ["physical_to_logical_map"]
    assert [len(row) for row in table["physical_to_logical_map"]] == [16] * 4


def test_exflow_takes_single_copies_only():
    plan = small(redundant=0)
    assert experts_exflow.read(export_plan(plan, "exflow").text, 12) == moe_rows(plan)
    with pytest.raises(InputError, match="holds one copy of each expert"):
        export_plan(small(), "exflow")


def test_slots_that_stay_empty_are_no_placement_an_engine_can_load():
    plan = msgspec.structs.replace(small(), slots=(5, 5, 5, 5))
    with pytest.raises(InputError, match="fills every slot but GPU 0 has 4 experts in 5 slots"):
        export_plan(plan, "sglang-experts")


def test_a_form_that_reads_back_otherwise_is_refused():
    plan = small()
    wrong = moe_rows(plan)
    wrong[0][0] = [3] if wrong[0][0] != [3] else [2]
    with pytest.raises(InvalidPlan, match="does not read back"):
        compare(plan, plan.moe_layers, wrong, "sglang-experts")


def form(value):
    """The keys and kinds of a document, with the first entry standing for a list."""
    if isinstance(value, dict):
        return {key: form(each) for key, each in value.items()}
    return [form(value[0])] if isinstance(value, list) else type(value)


def outer_lines(text):
    """The keys at the left margin of a YAML document."""
    return [line.split(":")[0] for line in text.splitlines() if not line.startswith(" ")]


def test_reference_files_of_four_engines_say_the_same_in_the_forms_we_write():
    folder = shared_file("routing/formats")
    sglang, vllm, ascend = (
        (folder / name).read_text()
        for name in ("sglang_init_expert_location.json", "vllm_initial_expert_map.json", "vllm_ascend_expert_map.json")
    )
    tensorrt = (folder / "trtllm_moe_load_balancer.yaml").read_text()
    rows = experts_sglang.read(sglang, 32, 256)[3:]
    assert experts_tensorrt_llm.read(tensorrt, 32, 256) == rows
    assert experts_vllm.read(vllm, 32, 256) == rows
    assert experts_vllm_ascend.read(ascend, 256) == rows
    plan = small()
    for launcher, reference in zip(("sglang-experts", *ENGINES[2:]), (sglang, vllm, ascend), strict=True):
        assert form(json.loads(export_plan(plan, launcher).text)) == form(json.loads(reference))
    assert outer_lines(export_plan(plan, "tensorrt-llm-experts").text) == outer_lines(tensorrt)


def test_the_reference_solution_of_exflow_reads_as_one_gpu_an_expert():
    table = experts_exflow.read(shared_file("routing/formats/exflow_solution.csv").read_text(), 256)
    assert len(table) == 58
    assert all(len(gpus) == 1 and 0 <= gpus[0] < 32 for row in table for gpus in row)
