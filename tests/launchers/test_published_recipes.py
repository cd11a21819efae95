"""NVIDIA's published training recipes imported as plans, exported again, and accepted by Megatron-LM's parser."""

from __future__ import annotations

import json
import shlex
from collections import Counter

import msgspec
import pytest

from benchmarks import published_plans, published_recipes
from shardwright.planner.errors import InputError
from shardwright.planner.export import Context, exporter
from shardwright.planner.inputs import load_model, restored_model, restored_topology, topology_input
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import megatron_parser
from tests.reference import shared_file

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("megatron", reason="the launcher checks run in `make test-launchers`")

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's own, about kernels that are absent here

# Every recipe ends in one of these. Those that train adapters go to Megatron-Bridge (test_megatron_bridge.py), since
# Megatron-LM trains every weight. Those that contradict themselves name fewer devices than their ranks take, which
# Megatron-LM refuses too, as it does the one whose stages begin with layers that share an indexer with a stage before.
# The models not here are named with the reason in benchmarks/published_recipes.py.
FATES = {
    "accepted": 246,
    "accepted on more devices than it names": 10,
    "adapters": 14,
    "shared indexer": 1,
    "model not here": 4,
}


def imported(entry: dict) -> TrainingPlan:
    """A recipe as a plan."""
    recipe = published_recipes.imported(entry)
    topology = published_recipes.topology_for(recipe.gpu, recipe.devices)
    plan = published_plans.their_plan(recipe, topology)
    return msgspec.structs.replace(plan, inputs=(load_model(recipe.model)[1], topology_input(topology)))


def exported(plan: TrainingPlan, launcher: str = "megatron") -> list[str]:
    context = Context(plan=plan, model=restored_model(plan), topology=restored_topology(plan))
    return shlex.split(exporter(launcher)(context).text)


def recipes() -> list[dict]:
    entries: list[dict] = json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"]
    return entries


def test_every_recipe_that_can_be_exported_is_accepted_by_megatron(monkeypatch):
    megatron_parser.with_transformer_engine(monkeypatch)
    counts, accepted = Counter(), set()
    for entry in recipes():
        if published_recipes.family(entry["recipe"]) in published_recipes.NO_MODEL:
            counts["model not here"] += 1
            continue
        plan = imported(entry)
        try:
            words = exported(plan)
        except InputError as error:
            why = "adapters" if "_peft_" in entry["recipe"] else "shared indexer"
            assert {"adapters": "trained adapters", "shared indexer": "whose indexer is an earlier"}[why] in str(error)
            counts[why] += 1
            continue
        world = plan.strategy.world_size
        counts["accepted" if world == entry["num_gpus"] else "accepted on more devices than it names"] += 1
        if (world, *words) not in accepted:
            parsed = megatron_parser.parse(words, world, monkeypatch)
            assert parsed.data_parallel_size == plan.strategy.dp, entry["recipe"]
            assert parsed.num_layers == sum(stage.layers for stage in plan.stages), entry["recipe"]
            accepted.add((world, *words))
    assert counts == FATES
    assert sum(counts.values()) == 275


def test_megatron_refuses_the_recipes_that_contradict_themselves_on_the_devices_they_name(monkeypatch):
    """Their ep × etp × pp ranks do not divide the devices; on those that they are imported for, they do."""
    megatron_parser.with_transformer_engine(monkeypatch)
    entries = [entry for entry in recipes() if published_recipes.legal(entry).startswith("not legal")]
    assert len(entries) == FATES["accepted on more devices than it names"]
    seen = set()
    for entry in entries:
        named, plan = int(entry["num_gpus"]), imported(entry)
        if (degrees := (named, plan.strategy.label())) in seen:
            continue
        seen.add(degrees)
        parsed = megatron_parser.parse(exported(plan), plan.strategy.world_size, monkeypatch)
        with pytest.raises(RuntimeError, match="not divisible by expert_tensor_model_pipeline_parallel size"):
            megatron_parser.initialize(parsed, named)
        megatron_parser.initialize(parsed, plan.strategy.world_size)


def test_megatron_refuses_stages_that_begin_with_a_shared_indexer(monkeypatch):
    """The export refuses it for the reason that Megatron gives when it builds such a stage."""
    from megatron.core.models.gpt import experimental_attention_variant_module_specs as specs

    megatron_parser.with_transformer_engine(monkeypatch)
    ours, theirs = (entry for entry in recipes() if published_recipes.family(entry["recipe"]) == "glm52")
    with pytest.raises(InputError, match="a stage that begins with layer 13, whose indexer is an earlier layer's"):
        exported(imported(ours))
    plan = imported(theirs)
    config = megatron_parser.parse(exported(plan), plan.strategy.world_size, monkeypatch).transformer
    for stage in plan.stages:
        specs._validate_dsa_index_share_pipeline_split(
            config, range(stage.first_layer, stage.first_layer + stage.layers)
        )
    with pytest.raises(RuntimeError, match="DSA index-share pipeline split is invalid"):
        specs._validate_dsa_index_share_pipeline_split(config, range(13, 26))
