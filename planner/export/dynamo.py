"""NVIDIA Dynamo: a DynamoGraphDeployment with a frontend and a component a pool, for vLLM, SGLang or TensorRT-LLM."""

from __future__ import annotations

import json
from typing import Any

from ..errors import InputError
from .base import Context, Export
from .folder import plan_file, yaml_text
from .serving_folder import serving_readme
from .serving_kubernetes import NOTES, SECRET, Pods, data, deployment_name, label_steps, pods, variables
from .serving_model import plain_weights
from .serving_workers import refuse, replica_order, serving_plan, stage_order
from .sglang import sglang_environment, sglang_flags, sglang_notes, sglang_options
from .tensorrt_llm import trtllm_notes, trtllm_options
from .vllm import vllm_environment, vllm_flags, vllm_notes, vllm_options

VERSION = "1.6.1"
_RUNTIMES = {"vllm": "vllm-runtime", "sglang": "sglang-runtime", "trtllm": "tensorrtllm-runtime"}
_TYPES = {"aggregated": "worker", "prefill": "prefill", "decode": "decode"}
_NOTES = {"vllm": vllm_notes, "sglang": sglang_notes, "trtllm": trtllm_notes}


class Dynamo:
    """`nvidia.com/v1beta1`: components whose nodes Dynamo's operator joins itself."""

    name = "dynamo"
    kinds = ("serving",)
    validated_with = f"ai-dynamo {VERSION} (its model of DynamoGraphDeployment v1beta1)"

    def __call__(self, context: Context) -> Export:
        """`dynamo.yaml`. Raises InputError for what the engine cannot run and names the operator cannot pass on."""
        plan = serving_plan(context)
        refuse(plan, self.name, tuple(_RUNTIMES))
        name = deployment_name(plan)
        found = pods(context, self.name, replica_order if plan.engine == "vllm" else stage_order)
        document = {
            "apiVersion": "nvidia.com/v1beta1",
            "kind": "DynamoGraphDeployment",
            "metadata": {"name": name},
            "spec": {"components": [_frontend(plan.engine), *(_component(context, each) for each in found)]},
        }
        text = yaml_text(document)
        notes = (*_NOTES[plan.engine](context, self.name), *NOTES)
        steps = [
            "Install the Dynamo platform once a cluster.",
            *label_steps(found),
            "Run `kubectl apply -f dynamo.yaml`; the frontend finds the workers as they come up.",
            f"Send requests to port 8000 of the service {name}-frontend.",
        ]
        files = {"dynamo.yaml": text, "README.md": serving_readme("Start with NVIDIA Dynamo", steps, (), notes)}
        return Export(text=text, files={**files, **plan_file(context)}, cannot_express=notes)


def _image(engine: str) -> str:
    return f"nvcr.io/nvidia/ai-dynamo/{_RUNTIMES[engine]}:{VERSION}"


def _frontend(engine: str) -> dict[str, Any]:
    container = {"name": "main", "image": _image(engine), "command": ["python3"], "args": ["-m", "dynamo.frontend"]}
    return {
        "name": "Frontend",
        "type": "frontend",
        "replicas": 1,
        "podTemplate": {"spec": {"containers": [{**container, "env": [SECRET]}]}},
    }


def _component(context: Context, each: Pods) -> dict[str, Any]:
    engine = serving_plan(context).engine
    plain_weights(context, Dynamo.name)
    flags, environment = _arguments(context, each, engine)
    container = {
        "name": "main",
        "image": _image(engine),
        "command": ["python3", "-m", f"dynamo.{engine}"],
        "args": data(flags),
        "env": [*variables(environment), SECRET],
        "resources": each.resources,
    }
    spec: dict[str, Any] = {"containers": [container], **({"nodeSelector": each.select} if each.select else {})}
    component: dict[str, Any] = {
        "name": each.name,
        "type": _TYPES[each.pool.phase],
        "replicas": each.pool.workers,
        "podTemplate": {"spec": spec},
    }
    if each.nodes > 1:
        component["multinode"] = {"nodeCount": each.nodes}
        if engine == "vllm" and each.pool.layout.attn_dp > 1:
            _check_groups(each)
    return component


def _check_groups(each: Pods) -> None:
    if each.pool.layout.attn_dp % each.nodes:
        raise InputError(
            f"export: dynamo puts whole attention groups on every node, but pool {each.name} has "
            f"{each.pool.layout.attn_dp} on {each.nodes} nodes"
        )


def _arguments(context: Context, each: Pods, engine: str) -> tuple[list[str], dict[str, str]]:
    """Options as the Dynamo worker of the engine takes them, and its environment."""
    split = [] if each.pool.phase == "aggregated" else ["--disaggregation-mode", each.pool.phase]
    if engine == "vllm":
        options = vllm_options(context, each.pool, Dynamo.name)
        return [*vllm_flags(options), *split], vllm_environment(context, each.pool)
    if engine == "sglang":
        served = sglang_options(context, each.pool, Dynamo.name)
        return sglang_flags(served), sglang_environment(context, each.pool)
    model = plain_weights(context, Dynamo.name).name
    overrides = json.dumps(trtllm_options(context, each.pool, Dynamo.name), separators=(",", ":"))
    return ["--model-path", model, "--override-engine-args", overrides, *split], {}
