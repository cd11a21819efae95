from __future__ import annotations

import pytest

from shardwright.models import model
from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.legality import RULES, facts, legal, violations
from shardwright.planner.workload.strategy_table import table_of
from shardwright.planner.workload.training import TrainingJob

LLAMA = facts(model("llama-3.1-70b"), TrainingJob(gbs=128, sequence_length=8192), 64)
MIXTRAL = facts(model("mixtral-8x7b"), TrainingJob(gbs=128, sequence_length=4096), 64)


def strategy(**changed):
    return Strategy(**({"tp": 4, "sp": True, "pp": 4, "cp": 2, "dp_shard": 2} | changed))


def test_a_published_llama_70b_recipe_is_legal():
    assert violations(strategy(vpp=5), LLAMA) == ()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tp": 8}, "must equal the 64 devices"),
        ({"dp_shard": 2, "mbs": 3}, "gbs 128 must be a multiple of mbs × dp = 3 × 2 = 6"),
        ({"tp": 16, "dp_shard": 1, "pp": 2}, None),
        ({"vpp": 3, "stage_layers": (7,) * 11 + (4,)}, "80 layers must be divided"),
        ({"vpp": 5, "dp_shard": 1, "dp_replicate": 2, "mbs": 32}, "multiple of pp 4"),
        ({"zero": 3}, None),
        ({"ep": 2}, "needs a model with experts"),
        ({"recompute": "selective", "recompute_modules": ("mla_up",)}, "must be among"),
        ({"cp_comm": "a2a", "tp": 8, "dp_shard": 1}, "cp_comm a2a needs"),
        ({"dp_replicate": 3, "sync_period": 4, "sync": "pairs"}, "even dp_replicate for pairs"),
        ({"pp": 1, "cp": 8, "tp": 4, "stage_layers": (79,)}, "80 layers must be divided"),
    ],
)
def test_what_a_launcher_would_refuse_is_refused_with_the_reason(fields, complaint):
    broken = violations(strategy(**fields), LLAMA)
    if complaint is None:
        assert broken == ()
    else:
        assert any(complaint in sentence for sentence in broken)


def test_experts_with_tensor_parallelism_need_sequence_parallelism():
    assert any("need sp" in each for each in violations(strategy(sp=False, ep=2), MIXTRAL))
    assert violations(strategy(ep=4, vpp=1), MIXTRAL) == ()


def test_experts_must_divide_over_their_ranks():
    assert any("8 experts must be a multiple of ep 16" in each for each in violations(strategy(ep=16), MIXTRAL))


def test_state_space_layers_exclude_context_parallelism():
    hybrid = LLAMA.__class__(**{name: getattr(LLAMA, name) for name in LLAMA.__slots__} | {"scans": True})
    assert any("state-space" in each for each in violations(strategy(), hybrid))


def test_the_array_test_and_the_sentences_agree():
    rows = [strategy(), strategy(vpp=5), strategy(zero=3), strategy(mbs=3), strategy(ep=2)]
    table = table_of(rows, LLAMA.layers)
    assert legal(table, LLAMA).tolist() == [not violations(row, LLAMA) for row in rows]


def test_every_rule_has_its_own_name():
    names = [rule.name for rule in RULES]
    assert len(names) == len(set(names))
