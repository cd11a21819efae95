"""Dynamo's own model of a graph deployment reads the exports, and refuses broken ones."""

from __future__ import annotations

import importlib.util
import sys
import types
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from shardwright.planner import export_plan
from tests.serving_plans import plan_of

pytest.importorskip("pydantic", reason="the launcher checks run in `make test-launchers`")


@lru_cache
def model() -> Any:
    """`Config` of Dynamo's profiler. Its package needs a compiled runtime, so the one file is read without the rest."""
    found = importlib.util.find_spec("dynamo")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the launcher checks run in `make test-launchers`")
    source = (Path(found.submodule_search_locations[0]) / "profiler" / "utils" / "config.py").read_text()
    source = source.partition("\ndef get_component_name_by_type")[0]  # what follows needs the planner
    source = "\n".join(line for line in source.splitlines() if not line.startswith("from dynamo"))
    module = types.ModuleType("dynamo_profiler_config")
    sys.modules[module.__name__] = module
    module.__dict__["get_workspace_dir"] = lambda: ""  # what one of the lines left out would have brought
    exec(compile(source, "config.py", "exec"), module.__dict__)
    module.Config.model_rebuild(_types_namespace=module.__dict__)
    return module


def graph(shape: str, engine: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(export_plan(plan_of(shape, engine), "dynamo").text)
    return found


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
@pytest.mark.parametrize("shape", ["one worker", "uneven stages", "split", "wide experts, split"])
def test_dynamos_model_reads_the_graph(shape, engine):
    plan = plan_of(shape, engine)
    read = model().Config.model_validate(graph(shape, engine))
    workers = [each for each in read.spec.components if each.component_type != "frontend"]
    assert [each.replicas for each in workers] == [pool.workers for pool in plan.pools]
    for component, pool in zip(workers, plan.pools, strict=True):
        nodes = component.multinode.nodeCount if component.multinode else 1
        main = model().get_main_container(component)
        assert int(main.resources["limits"]["nvidia.com/gpu"]) * nodes == len(pool.devices[0])


def test_dynamos_profiler_counts_the_devices_of_a_worker_from_its_options():
    read = model().Config.model_validate(graph("uneven stages", "vllm"))
    assert model()._get_per_instance_gpus(read.spec.components[1]) == 6


@pytest.mark.parametrize(
    ("key", "value"), [("replicas", "many"), ("type", None), ("multinode", "two"), ("podTemplate", [])]
)
def test_dynamos_model_refuses_a_broken_graph(key, value):
    broken = graph("split", "vllm")
    broken["spec"]["components"][1][key] = value
    with pytest.raises(ValueError, match="valid"):
        model().Config.model_validate(broken)
