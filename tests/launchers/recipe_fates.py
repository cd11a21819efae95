# ruff: noqa: T201
"""What Megatron-LM's and Megatron-Bridge's own parsers make of NVIDIA's published recipes, exported again.

    python -m tests.launchers.recipe_fates FILE.json

FILE.json lists the recipes; the table is printed. Megatron-LM parses its arguments; Megatron-Bridge takes its overrides
of the published recipe itself, whose function runs with the catalog's configuration of the model. It needs `make
.venv-launchers/done`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks import published_plans, published_recipes
from shardwright.planner.errors import InputError
from shardwright.planner.export import Context, exporter
from shardwright.planner.inputs import load_model, restored_model, restored_topology, topology_input
from shardwright.planner.plan.training import TrainingPlan
from tests.launchers import bridge_recipes, megatron_parser, recipe_facts

ACCEPTED = "accepted"
MORE_DEVICES = "accepted on more devices than it names"
ADAPTERS = "no flag for adapters"
NO_LAYERS = "no such layers"
REPAIRED = "accepted without one option of the recipe"
NO_VIDEO = "no such model"
REPAIR = "model.moe_hybridep_num_sms=null"
WHY = {
    MORE_DEVICES: "pp × ep × etp ranks do not divide the devices named, which Megatron-LM refuses; on those named it "
    f"accepts {len(published_recipes.CORRECTIONS)} of them as NVIDIA corrected them",
    ADAPTERS: "Megatron-LM's script trains every weight; it accepts the same degrees with all weights trained",
    NO_LAYERS: "megatron-core 0.19 has no compressed attention and no hyper-connections (DeepSeek V4)",
    REPAIRED: "megatron-core 0.19 refuses the recipe itself, which names two options where one is taken: "
    f"`{REPAIR}` beside the export takes back that of the kernel which it does not use",
    NO_VIDEO: "Megatron-LM's script trains language models, Wan is a video diffusion transformer; its recipes name a "
    "sequence of 1024, which nothing reads, and train on videos of 37440 patches: the exports name those",
}
Seen = dict[tuple[int, str], Any]


@functools.cache
def _plan(entry: bytes) -> TrainingPlan:
    recipe = published_recipes.imported(json.loads(entry))
    topology = published_recipes.topology_for(recipe.gpu, recipe.devices)
    plan = published_plans.their_plan(recipe, topology)
    return msgspec.structs.replace(plan, inputs=(load_model(recipe.model)[1], topology_input(topology)))


def plan_of(entry: dict[str, Any]) -> TrainingPlan:
    """A recipe as a plan."""
    return _plan(json.dumps(entry).encode())


def exported(plan: TrainingPlan, launcher: str = "megatron") -> str:
    """The plan in a launcher's words."""
    context = Context(plan=plan, model=restored_model(plan), topology=restored_topology(plan))
    return exporter(launcher)(context).text


def parsed(plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch, seen: Seen) -> Any:
    """What Megatron-LM's parser makes of the plan, of equal ones once; it finds the plan's data parallelism and layers.

    Raises InputError where the export is refused, and what Megatron raises.
    """
    text, world = exported(plan), plan.strategy.world_size
    if (world, text) not in seen:
        seen[world, text] = megatron_parser.parse(shlex.split(text), world, monkeypatch)
    found = seen[world, text]
    assert found.data_parallel_size == plan.strategy.dp
    assert found.num_layers == sum(stage.layers for stage in plan.stages)
    return found


def megatron_fate(entry: dict[str, Any], monkeypatch: pytest.MonkeyPatch, seen: Seen) -> str:
    """What Megatron-LM's parser makes of a recipe."""
    plan = plan_of(entry)
    try:
        parsed(plan, monkeypatch, seen)
    except InputError as error:
        reasons = {"trained adapters": ADAPTERS, "hyper-connections": NO_LAYERS, "a video model": NO_VIDEO}
        return next(fate for reason, fate in reasons.items() if reason in str(error))
    return ACCEPTED if plan.strategy.world_size == entry["num_gpus"] else MORE_DEVICES


def bridge_fate(entry: dict[str, Any], folder: Path) -> str:
    """What Megatron-Bridge makes of a plan's overrides of the recipe that it was, in which nothing may change."""
    name, plan = entry["recipe"], plan_of(entry)
    config = bridge_recipes.published()[name]()
    before = recipe_facts.facts(config)
    bridge_recipes.overridden(config, exported(plan, "megatron-bridge").splitlines())
    after = recipe_facts.facts(config)
    assert config.model.seq_length == config.dataset.seq_length == plan.job.sequence_length, name
    assert (config.peft is not None) == (plan.job.trained == "adapters"), name
    apart = {"layout": ""} if plan.job.trained == "all" else {"layout": "", "gradient_bytes": 0}
    assert before | apart == after | apart, name
    assert not before["layout"] or stages(before, plan) == stages(after, plan), name
    try:
        checked(config, plan, folder)
    except ValueError as error:
        with pytest.raises(ValueError) as original:
            checked(bridge_recipes.published()[name](), plan, folder)
        assert str(original.value) == str(error)
        config = bridge_recipes.published()[name]()
        bridge_recipes.overridden(config, [*exported(plan, "megatron-bridge").splitlines(), REPAIR])
        checked(config, plan, folder)
        assert config.model.moe_flex_dispatcher_backend == "deepep"
        return REPAIRED
    assert config.data_parallel_size == plan.strategy.dp
    return ACCEPTED


def stages(facts: dict[str, Any], plan: TrainingPlan) -> tuple[int, ...]:
    """The layers of every virtual stage, also where they are alike."""
    count, layers = plan.strategy.pp * plan.strategy.vpp, sum(stage.layers for stage in plan.stages)
    return published_recipes.layout(facts["layout"]) if facts["layout"] else (layers // count,) * count


def checked(config: Any, plan: TrainingPlan, folder: Path) -> None:
    """Every check of the library before a model is built, with data and weights as a user would name them."""
    from megatron.bridge.training.config import runtime_config_update

    if hasattr(config.dataset, "path_to_cache"):
        config.dataset.path_to_cache = str(folder)
    config.checkpoint.pretrained_checkpoint = str(folder)
    before = dict(os.environ)
    try:
        os.environ.pop("CUDA_DEVICE_MAX_CONNECTIONS", None)  # a recipe sets what is not set
        os.environ.update({"WORLD_SIZE": str(plan.strategy.world_size), "RANK": "0"})
        runtime_config_update(config)
    finally:
        os.environ.clear()
        os.environ.update(before)


def table(fates: Counter[tuple[str, str]]) -> str:
    """Recipes by both parsers' answers, as Markdown."""
    lines = ["| recipes | Megatron-LM's parser | Megatron-Bridge's | why not |", "|---:|---|---|---|"]
    for (megatron, bridge), count in sorted(fates.items(), key=lambda each: (-each[1], each[0])):
        why = "; ".join(dict.fromkeys(WHY[fate] for fate in (megatron, bridge) if fate in WHY))
        lines.append(f"| {count} | {megatron} | {bridge} | {why} |")
    return "\n".join([*lines, f"| {sum(fates.values())} | | | |"])


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    entries = json.loads(Path(parser.parse_args().file).read_text(encoding="utf-8"))["recipes"]
    seen: Seen = {}
    aside = contextlib.redirect_stdout(sys.stderr)  # Megatron-LM prints its arguments
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as folder, aside:
        megatron_parser.with_transformer_engine(monkeypatch)
        first = [megatron_fate(entry, monkeypatch, seen) for entry in entries]
        bridge_recipes.with_kernels(monkeypatch)
        second = [bridge_fate(entry, Path(folder)) for entry in entries]
    print(table(Counter(zip(first, second, strict=True))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
