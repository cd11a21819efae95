"""KServe: an LLMInferenceService, its prefill workers beside it where the phases are apart, for vLLM."""

from __future__ import annotations

import shlex
from typing import Any

from ..errors import InputError
from .base import Context, Export
from .folder import plan_file, yaml_text
from .leaderworkerset import IMAGES
from .serving_folder import serving_readme
from .serving_kubernetes import NOTES, POD_IP, Pods, deployment_name, label_steps, pods, variables
from .serving_model import plain_weights
from .serving_workers import refuse, replica_order, serving_plan
from .vllm import vllm_environment, vllm_flags, vllm_notes, vllm_options

_NOTES = ("the gateway of KServe's configuration, which `router` uses as it is",)


class KServe:
    """One LLMInferenceService; KServe's own templates start vLLM and read further options from VLLM_ADDITIONAL_ARGS."""

    name = "kserve"
    kinds = ("serving",)
    validated_with = "serving.kserve.io/v1alpha2 (its CRD schema, strict)"

    def __call__(self, context: Context) -> Export:
        """`llmisvc.yaml`. Raises InputError for several pools of one phase and what the templates cannot start."""
        plan = serving_plan(context)
        refuse(plan, self.name, ("vllm",))
        found = pods(context, self.name, replica_order)
        phases = [each.pool.phase for each in found]
        if len(set(phases)) != len(phases):
            raise InputError(f"export: kserve has one kind of worker a phase, but this plan has {', '.join(phases)}")
        model, name = plain_weights(context, self.name), deployment_name(plan)
        served = label_name(plan.model)
        main = next(each for each in found if each.pool.phase != "prefill")
        spec: dict[str, Any] = {
            "model": {"uri": f"hf://{model.name}" if model.published else f"pvc://{name}-weights", "name": served},
            **_workload(context, main),
            "router": {"route": {}, "gateway": {}, "scheduler": {}},
        }
        for each in found:
            if each.pool.phase == "prefill":
                spec["prefill"] = _workload(context, each)
        document = {
            "apiVersion": "serving.kserve.io/v1alpha2",
            "kind": "LLMInferenceService",
            "metadata": {"name": name},
            "spec": spec,
        }
        text = yaml_text(document)
        notes = (*vllm_notes(context, self.name), NOTES[0], *_NOTES)
        steps = [
            "Install KServe with LLMInferenceService once a cluster.",
            *label_steps(found),
            *([] if model.published else [f"Put the weights on a volume claim named {name}-weights."]),
            "Run `kubectl apply -f llmisvc.yaml`.",
            f"When `kubectl get llminferenceservice {name}` shows it ready, send requests to its URL, model {served}.",
        ]
        files = {"llmisvc.yaml": text, "README.md": serving_readme("Start with KServe", steps, (), notes)}
        return Export(text=text, files={**files, **plan_file(context)}, cannot_express=notes)


def label_name(text: str) -> str:
    """A model name that KServe's templates can quote: letters, digits, '.', '_' and '-' of a text."""
    kept = "".join(sign if sign.isascii() and (sign.isalnum() or sign in "._-") else "-" for sign in text)
    return kept.strip("-") or "model"


def _workload(context: Context, each: Pods) -> dict[str, Any]:
    layout = each.pool.layout
    parallelism: dict[str, Any] = {"tensor": layout.tp}
    if each.nodes > 1:
        parallelism |= _over_nodes(each)
    if layout.ep > 1:
        parallelism["expert"] = True
    pod = {"containers": [_container(context, each)], **({"nodeSelector": each.select} if each.select else {})}
    workload = {"replicas": each.pool.workers, "parallelism": parallelism, "template": pod}
    return workload | ({"worker": pod} if each.nodes > 1 else {})


def _over_nodes(each: Pods) -> dict[str, int]:
    """KServe counts nodes as data / dataLocal, or as stages; it starts nothing else on several nodes."""
    layout = each.pool.layout
    if layout.pp == 1 and layout.attn_dp > 1 and layout.attn_dp % each.nodes == 0:
        return {"data": layout.attn_dp, "dataLocal": layout.attn_dp // each.nodes}
    if layout.attn_dp == 1 and layout.pp == each.nodes:
        return {"pipeline": layout.pp}
    raise InputError(
        f"export: kserve starts a stage a node, or whole attention groups on every node, but pool {each.name} is "
        f"{layout.label()} on {each.nodes} nodes; use leaderworkerset or llm-d"
    )


def _container(context: Context, each: Pods) -> dict[str, Any]:
    """The options go through a shell of KServe's template, so every word is quoted for it."""
    options = vllm_options(context, each.pool, KServe.name)
    del options["model"]
    arguments = " ".join(shlex.quote(word) for word in vllm_flags(options))
    environment: list[dict[str, Any]] = variables(
        {"VLLM_ADDITIONAL_ARGS": arguments, **vllm_environment(context, each.pool)}
    )
    if each.pool.phase != "aggregated":
        environment.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", **POD_IP})
    return {"name": "main", "image": IMAGES["vllm"], "env": environment, "resources": each.resources}
