"""NVIDIA's published training recipes imported as plans, exported again, and accepted by Megatron-LM's parser."""

from __future__ import annotations

import json
import shlex
from collections import Counter

import msgspec
import pytest

from benchmarks import published_plans
from shardwright.planner.errors import InputError
from shardwright.planner.export import Context, exporter
from shardwright.planner.inputs import load_model, restored_model, restored_topology, topology_input
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import megatron_parser
from tests.reference import shared_file

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")
pytest.importorskip("megatron", reason="the launcher checks run in `make test-launchers`")

pytestmark = pytest.mark.filterwarnings("ignore")  # Megatron's own, about kernels that are absent here


def imported(entry: dict) -> TrainingPlan | None:
    """A recipe as a plan, or None where the catalog lacks its model or accelerator or its degrees contradict."""
    if published_plans.legal(entry):
        return None
    recipe = published_plans.recipe_of(entry)
    try:
        topology = published_plans.topology_for(recipe.gpu, recipe.devices)
    except published_plans.UnusableError:
        return None
    plan = published_plans.their_plan(recipe, topology)
    return msgspec.structs.replace(plan, inputs=(load_model(recipe.model)[1], topology_input(topology)))


def exported(plan: TrainingPlan) -> list[str]:
    context = Context(plan=plan, model=restored_model(plan), topology=restored_topology(plan))
    return shlex.split(exporter("megatron")(context).text)


def test_every_recipe_that_can_be_exported_is_accepted_by_megatron(monkeypatch):
    entries = json.loads(shared_file("launchers/nvidia_perf_recipe_plans.json").read_text())["recipes"]
    megatron_parser.without_triton()
    from megatron.core.transformer import transformer_config
    from megatron.training import arguments

    for module in (transformer_config, arguments):  # the target's Transformer Engine, for fp8 and fp4
        monkeypatch.setattr(module, "is_te_min_version", lambda *_, **__: True)
    counts, accepted = Counter(), set()
    for entry in entries:
        plan = imported(entry)
        if plan is None:
            counts["not imported"] += 1
            continue
        try:
            words = exported(plan)
        except InputError as error:
            assert "cannot express" in str(error)
            adapters = "trained adapters" in str(error)
            assert adapters == ("_peft_" in entry["recipe"])
            counts["adapters" if adapters else "not a model of pretrain_gpt.py"] += 1
            continue
        counts["accepted"] += 1
        world = plan.strategy.world_size
        if (world, *words) not in accepted:
            parsed = megatron_parser.parse(words, world, monkeypatch)
            assert parsed.data_parallel_size == plan.strategy.dp, entry["recipe"]
            accepted.add((world, *words))
    assert counts["adapters"] == 14
    assert counts["accepted"] >= 169
    assert sum(counts.values()) == 275
