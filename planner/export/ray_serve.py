"""Ray Serve LLM: an application of vLLM replicas, whole, with data-parallel attention, or split by phase."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from .base import Context, Export
from .folder import plan_file, yaml_text
from .serving_folder import serving_readme
from .serving_kubernetes import Pods, pods
from .serving_model import weights
from .serving_workers import refuse, replica_order, serving_plan, split_pools
from .vllm import vllm_environment, vllm_notes, vllm_options

VERSION = "2.60.0"
# Names that Ray gives accelerators (ray.util.accelerators); others are found by their GPU resource alone.
_KNOWN = frozenset(
    ("V100", "P100", "T4", "L4", "L40S", "A10G", "A100", "H100", "H200", "H20", "B200", "B300", "GB200", "GB300")
)
_AUTO = -1  # what `max-model-len: auto` means where no parser reads the word
_NOTES = (
    "Ray chooses the nodes and devices of every replica: the plan's own are in plan.json",
    "ray[llm] on every node, and a running Ray cluster",
)


class RayServe:
    """`serve deploy`; each worker of the plan is a replica whose bundles Ray places together."""

    name = "ray-serve"
    kinds = ("serving",)
    validated_with = f"ray[serve] {VERSION} (ServeDeploySchema, LLMConfig)"

    def __call__(self, context: Context) -> Export:
        """`serve.yaml`. Raises InputError for several pools of one phase and for what vLLM cannot run."""
        plan = serving_plan(context)
        refuse(plan, self.name, ("vllm",))
        found = {each.pool.phase: each for each in pods(context, self.name, replica_order)}
        if len(found) != len(plan.pools):
            raise InputError(
                "export: ray-serve has one kind of replica a phase, but this plan has several pools of one"
            )
        if split_pools(plan):
            builder = "build_pd_openai_app"
            arguments: dict[str, Any] = {
                f"{phase}_config": _config(context, found[phase]) for phase in ("prefill", "decode")
            }
        elif found["aggregated"].pool.layout.attn_dp > 1:
            builder, arguments = "build_dp_openai_app", {"llm_config": _config(context, found["aggregated"])}
        else:
            builder, arguments = "build_openai_app", {"llm_configs": [_config(context, found["aggregated"])]}
        application = {
            "name": "llm",
            "route_prefix": "/",
            "import_path": f"ray.serve.llm:{builder}",
            "args": arguments,
        }
        text = yaml_text({"applications": [application]})
        notes = (*vllm_notes(context, self.name), *_NOTES)
        steps = [
            "Start a Ray cluster on the plan's nodes, or use one that has them.",
            "Run `serve deploy serve.yaml` against it.",
            "Send requests to port 8000 of the cluster's head.",
        ]
        files = {"serve.yaml": text, "README.md": serving_readme("Start with Ray Serve LLM", steps, (), notes)}
        return Export(text=text, files={**files, **plan_file(context)}, cannot_express=notes)


def _config(context: Context, each: Pods) -> dict[str, Any]:
    """One LLMConfig. Ray counts data-parallel ranks as replicas itself, each on the devices of one of them."""
    plan, layout = serving_plan(context), each.pool.layout
    options = vllm_options(context, each.pool, RayServe.name)
    del options["model"]
    engine = {name.replace("-", "_"): value for name, value in options.items()}
    engine["max_model_len"] = _AUTO
    ranks = layout.tp * layout.pp
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": plan.model, "model_source": weights(context, RayServe.name).name},
        "engine_kwargs": engine,
        "deployment_config": {"num_replicas": each.pool.workers},
        "placement_group_config": {
            "bundles": [{"GPU": 1} for _ in range(ranks)],
            "strategy": "STRICT_PACK" if ranks <= each.devices else "PACK",
        },
    }
    family = each.pool.accelerator.partition("-")[0]
    if family in _KNOWN:
        config["accelerator_type"] = family
    environment = vllm_environment(context, each.pool)
    if environment:
        config["runtime_env"] = {"env_vars": environment}
    return config
