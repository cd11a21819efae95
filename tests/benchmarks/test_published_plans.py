from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks.published_plans import compare, layout, legal, strategy_of, table
from tests.reference import shared_file

RECIPE = {
    "recipe": "llama3_8b_pretrain_8gpu_h100_bf16_config",
    "gpu": "h100",
    "num_gpus": 8,
    "tp": 1,
    "pp": 1,
    "cp": 2,
    "vpp": None,
    "sp": False,
    "gbs": 128,
    "mbs": 1,
}


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("Et|(tt|)*30L", (1, *[2] * 30, 0)),
        ("Et*4|(t*7|)*5t*8|tmL", (4, *[7] * 5, 8, 1)),
        ("Et*4|(tttt|)*14tmL", (4, *[4] * 14, 1)),
    ],
)
def test_pipeline_layouts_are_read_as_megatron_writes_them(text, layers):
    assert layout(text) == layers


def test_a_recipe_becomes_a_strategy():
    made = strategy_of(RECIPE)
    assert (made.cp, made.dp, made.world_size) == (2, 4, 8)
    assert legal(RECIPE) == ""


def test_a_recipe_with_more_expert_ranks_than_a_stage_has_is_not_legal():
    recipe = RECIPE | {"recipe": "qwen3_30b_a3b_pretrain_8gpu_h100_bf16_config", "pp": 2, "cp": 1, "ep": 8}
    assert legal(recipe).startswith("not legal: strategy.ep × etp = 8 must divide")


def test_both_plans_are_predicted_and_the_difference_is_named():
    made = compare(RECIPE)
    assert made.our_s <= made.their_s
    assert made.why
    assert made.recipe in table([made])


def test_the_published_plans_are_legal_here():
    entries = json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"]
    counts = Counter(legal(entry).split(":")[0].split(",")[0] or "legal" for entry in entries)
    assert counts["legal"] >= 240
    assert counts["legal"] + counts["degrees legal"] >= 265
    contradicting = [legal(entry) for entry in entries if legal(entry).startswith("not legal")]
    assert all("ep × etp" in sentence for sentence in contradicting)
