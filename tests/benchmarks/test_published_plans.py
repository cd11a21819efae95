from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks.published_plans import Outcome, compare, summary, table
from benchmarks.published_recipes import (
    CORRECTIONS,
    corrected,
    devices_for,
    imported,
    layout,
    legal,
    strategy_of,
)
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


def test_the_summary_counts_what_fits_and_which_plan_is_faster():
    slower = Outcome("a", theirs="tp1", ours="tp2", their_s=1.2, our_s=1.0)
    same = Outcome("b", theirs="tp1", ours="tp1", their_s=1.0, our_s=1.0)
    large = Outcome("c", theirs="tp1", ours="tp2", their_s=0.5, our_s=1.0, why="does not fit: 1 GB")
    made = summary([slower, same, large, Outcome("d", "not here")])
    for row in ("predicted and compared | 3", "to fit in memory | 2", "as fast | 1", "10.0 %) | 1", "not here | 1"):
        assert f"{row} |" in made


def test_expert_ranks_that_no_stage_holds_ask_for_more_devices():
    recipe = RECIPE | {"recipe": "qwen3_30b_a3b_pretrain_8gpu_h100_bf16_config", "pp": 2, "cp": 1, "ep": 8}
    assert devices_for(RECIPE) == 8
    assert devices_for(recipe) == 16
    assert legal(recipe).endswith("; on 16 devices it is")
    made = compare(recipe)
    assert "pp 2 × ep 8 × etp 1 = 16 does not divide the 8 devices named; compared on 16" in made.theirs


def test_the_published_plans_are_legal_here():
    """All but those that contradict themselves: more expert ranks than a stage of the devices named."""
    entries = json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"]
    counts = Counter(legal(entry).split(":")[0].split(",")[0] or "legal" for entry in entries)
    assert counts == {"legal": 265, "not legal": 10}
    contradicting = [entry for entry in entries if legal(entry).startswith("not legal")]
    for entry in contradicting:
        assert int(entry["num_gpus"]) % (int(entry["pp"]) * int(entry["ep"]))
        assert "ep × etp" in legal(entry)
        assert imported(entry).devices > int(entry["num_gpus"])


def test_as_nvidia_corrected_them_they_are_legal_on_the_devices_they_name():
    """All whose expert ranks do not divide, but for one that is the plan of 1024 devices with a smaller batch."""
    entries = json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"]
    left = [entry["recipe"] for entry in entries if legal(corrected(entry)).startswith("not legal")]
    assert left == ["deepseek_v3_pretrain_64gpu_h100_fp8cs_config"]
    assert set(CORRECTIONS) < {entry["recipe"] for entry in entries}


def test_what_the_file_leaves_out_is_in_the_plan():
    """Stages that the recipe counts its embedding and loss into, and moments in 16 bits."""
    entries = json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"]
    named = {entry["recipe"]: entry for entry in entries}
    recipe = imported(named["qwen3_235b_a22b_pretrain_256gpu_gb300_bf16_config"])
    assert recipe.strategy.stage_layers == (23, 24, 24, 23)
    assert imported(named["deepseek_v3_pretrain_256gpu_gb300_fp8mx_config"]).job.moment_bytes == 4
    assert imported(named["kimi_k2_pretrain_256gpu_gb300_bf16_config"]).job.optimizer == "muon"
    video = imported(named["wan_14b_pretrain_16gpu_gb200_bf16_config"])
    assert (video.model, video.job.sequence_length, video.strategy.recompute) == ("wan2.1-t2v-14b", 37440, "full")
