"""NVIDIA's published training recipes imported as plans, exported again, and accepted by Megatron's own parsers."""

from __future__ import annotations

import functools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("megatron", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("hydra", reason="the launcher checks run in `make test-launchers`")

from benchmarks import published_plans, published_recipes
from shardwright.planner.errors import InputError
from tests.launchers import bridge_recipes, megatron_parser, recipe_facts, recipe_fates
from tests.launchers.recipe_fates import exported, parsed, plan_of
from tests.reference import shared_file

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's own, about kernels that are absent here

FATES = {
    (recipe_fates.ACCEPTED, recipe_fates.ACCEPTED): 246,
    (recipe_fates.ACCEPTED, recipe_fates.REPAIRED): 1,
    (recipe_fates.MORE_DEVICES, recipe_fates.ACCEPTED): 10,
    (recipe_fates.ADAPTERS, recipe_fates.ACCEPTED): 14,
    (recipe_fates.NO_LAYERS, recipe_fates.ACCEPTED): 2,
    (recipe_fates.NO_VIDEO, recipe_fates.ACCEPTED): 2,
}
TABLE = Path(published_plans.__file__).with_name("results") / "published_plans.md"


@functools.cache
def recipes() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"])


def fates_by_megatron() -> Counter[str]:
    found: Counter[str] = Counter()
    for (fate, _), count in FATES.items():
        found[fate] += count
    return found


def test_megatron_accepts_every_recipe_that_trains_all_weights_of_layers_that_it_has(monkeypatch):
    megatron_parser.with_transformer_engine(monkeypatch)
    seen: recipe_fates.Seen = {}
    assert Counter(recipe_fates.megatron_fate(entry, monkeypatch, seen) for entry in recipes()) == fates_by_megatron()


def test_megatron_bridge_takes_every_plan_back_into_the_recipe_that_it_was_and_nothing_changes(tmp_path, monkeypatch):
    bridge_recipes.with_kernels(monkeypatch)
    found = Counter(recipe_fates.bridge_fate(entry, tmp_path) for entry in recipes())
    assert found == {recipe_fates.ACCEPTED: 274, recipe_fates.REPAIRED: 1}


def test_the_committed_table_is_that_of_these_fates():
    assert sum(FATES.values()) == 275
    assert recipe_fates.table(Counter(FATES)) in TABLE.read_text(encoding="utf-8")


def test_the_degrees_of_recipes_that_train_adapters_are_accepted_by_megatron_for_all_weights(monkeypatch):
    megatron_parser.with_transformer_engine(monkeypatch)
    seen: recipe_fates.Seen = {}
    for entry in recipes():
        if "_peft_" in entry["recipe"]:
            plan = plan_of(entry)
            job = msgspec.structs.replace(plan.job, trained="all")
            parsed(msgspec.structs.replace(plan, job=job), monkeypatch, seen)
    assert seen


def test_megatron_refuses_the_recipes_that_contradict_themselves_on_the_devices_they_name(monkeypatch):
    """Their ep × etp × pp ranks do not divide the devices; on those that they are imported for, they do."""
    megatron_parser.with_transformer_engine(monkeypatch)
    entries = [entry for entry in recipes() if published_recipes.legal(entry).startswith("not legal")]
    assert len(entries) == FATES[recipe_fates.MORE_DEVICES, recipe_fates.ACCEPTED]
    seen = set()
    for entry in entries:
        named, plan = int(entry["num_gpus"]), plan_of(entry)
        if (degrees := (named, plan.strategy.label())) in seen:
            continue
        seen.add(degrees)
        arguments = parsed(plan, monkeypatch, {})
        with pytest.raises(RuntimeError, match="not divisible by expert_tensor_model_pipeline_parallel size"):
            megatron_parser.initialize(arguments, named)
        megatron_parser.initialize(arguments, plan.strategy.world_size)


def test_as_nvidia_corrected_them_megatron_accepts_them_on_the_devices_named(monkeypatch):
    megatron_parser.with_transformer_engine(monkeypatch)
    entries = [entry for entry in recipes() if entry["recipe"] in published_recipes.CORRECTIONS]
    assert len(entries) == len(published_recipes.CORRECTIONS) == 9
    seen: recipe_fates.Seen = {}
    for entry in entries:
        plan = plan_of(published_recipes.corrected(entry))
        assert plan.strategy.world_size == entry["num_gpus"]
        parsed(plan, monkeypatch, seen)
    for (world, _), arguments in seen.items():
        megatron_parser.initialize(arguments, world)


def test_what_is_imported_is_what_the_recipes_functions_say():
    """The committed facts are those of the library's own objects; without them the file alone would be imported."""
    functions = bridge_recipes.published()
    facts = {each["recipe"]: recipe_facts.differences(each, functions[each["recipe"]]()) for each in recipes()}
    assert {name: row for name, row in facts.items() if row} == published_recipes.FACTS


def test_megatron_refuses_stages_that_begin_with_a_shared_indexer(monkeypatch):
    """The export refuses it for the reason that Megatron gives when it builds such a stage."""
    from megatron.core.models.gpt import experimental_attention_variant_module_specs as specs

    megatron_parser.with_transformer_engine(monkeypatch)
    entry = next(each for each in recipes() if published_recipes.family(each["recipe"]) == "glm52")
    plan = plan_of(entry)
    config = parsed(plan, monkeypatch, {}).transformer
    for stage in plan.stages:
        specs._validate_dsa_index_share_pipeline_split(
            config, range(stage.first_layer, stage.first_layer + stage.layers)
        )
    with pytest.raises(InputError, match="a stage that begins with layer 13, whose indexer is an earlier layer's"):
        exported(plan_of(entry | {"corrected": {"layout": ""}}))
    with pytest.raises(RuntimeError, match="DSA index-share pipeline split is invalid"):
        specs._validate_dsa_index_share_pipeline_split(config, range(13, 26))
