"""Ray's own schema and LLM configuration read the exported application, and refuse broken ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from shardwright.planner import export_plan
from tests.serving_plans import plan_of

schema = pytest.importorskip("ray.serve.schema", reason="the engine checks run in `make test-engines`")
pytest.importorskip("vllm", reason="the engine checks run in `make test-engines`")


def document(shape: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(export_plan(plan_of(shape), "ray-serve").text)
    return found


def arguments(shape: str) -> dict[str, Any]:
    found: dict[str, Any] = document(shape)["applications"][0]["args"]
    return found


@pytest.mark.parametrize("shape", ["one worker", "uneven stages", "a stage a node", "split", "wide experts"])
def test_rays_schema_reads_the_deployment(shape):
    found = schema.ServeDeploySchema.model_validate(document(shape))
    assert [application.name for application in found.applications] == ["llm"]


@pytest.mark.parametrize("shape", ["one worker", "uneven stages", "a stage a node", "wide experts"])
def test_rays_llm_configuration_means_the_plan(shape):
    from ray.serve.llm import LLMConfig

    given = arguments(shape)
    found = LLMConfig.model_validate(given.get("llm_config") or given["llm_configs"][0])
    pool = plan_of(shape).pools[0]
    engine = found.get_engine_config()
    assert (engine.tensor_parallel_degree, engine.pipeline_parallel_degree) == (pool.layout.tp, pool.layout.pp)
    assert engine.num_devices == pool.layout.tp * pool.layout.pp
    assert found.deployment_config["num_replicas"] == pool.workers
    assert found.accelerator_type == pool.accelerator.partition("-")[0]


def test_rays_split_configuration_means_the_plan():
    from ray.llm._internal.serve.serving_patterns.prefill_decode.builder import PDServingArgs

    found = PDServingArgs.model_validate(arguments("split"))
    assert found.prefill_config.engine_kwargs["kv_transfer_config"]["kv_role"] == "kv_producer"
    assert found.decode_config.engine_kwargs["tensor_parallel_size"] == 4
    assert found.prefill_config.deployment_config["num_replicas"] == 2


@pytest.mark.parametrize(("key", "value"), [("args", ["llm"]), ("import_path", 3)])
def test_rays_schema_refuses_a_broken_deployment(key, value):
    broken = copy.deepcopy(document("one worker"))
    broken["applications"][0][key] = value
    with pytest.raises(ValueError, match=key):
        schema.ServeDeploySchema.model_validate(broken)


def test_ray_refuses_an_unknown_accelerator():
    from ray.serve.llm import LLMConfig

    config = arguments("one worker")["llm_configs"][0]
    with pytest.raises(ValueError, match="accelerator"):
        LLMConfig.model_validate({**config, "accelerator_type": "H999"})


def test_ray_refuses_split_pools_without_a_hand_over():
    from ray.llm._internal.serve.serving_patterns.prefill_decode.builder import PDServingArgs

    broken = copy.deepcopy(arguments("split"))
    del broken["decode_config"]["engine_kwargs"]["kv_transfer_config"]
    with pytest.raises(ValueError, match="kv_transfer_config"):
        PDServingArgs.model_validate(broken)
