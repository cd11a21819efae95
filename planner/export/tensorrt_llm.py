"""TensorRT-LLM: a configuration per pool, a script per worker, and its disaggregated server before split pools."""

from __future__ import annotations

import shlex
from dataclasses import replace
from math import floor
from typing import Any

from ..errors import InputError
from ..plan.serving import PoolPlan
from .base import Context, Export
from .folder import yaml_text
from .hosts import plain_name
from .serving_folder import (
    Command,
    host_scripts,
    part_name,
    part_script,
    router_script,
    serving_export,
    serving_port,
    serving_readme,
)
from .serving_model import draft_tokens, loading_format, plan_notes, stage_layers, weights
from .serving_workers import (
    ANY_ADDRESS,
    ROUTER_PORT,
    Worker,
    pool_names,
    refuse,
    see_devices,
    serving_plan,
    split_pools,
    workers,
)

VERSION = "1.2"
BLOCK_TOKENS = 32
_SIDES = {"prefill": "context_servers", "decode": "generation_servers"}


class TensorRtLlm:
    """`trtllm-serve`; a worker of several nodes is one mpirun under `trtllm-llmapi-launch`."""

    name = "tensorrt-llm"
    kinds = ("serving",)
    validated_with = (
        f"written for TensorRT-LLM {VERSION} (TorchLlmArgs, disaggregated server); no parser runs without a GPU"
    )

    def __call__(self, context: Context) -> Export:
        """The folder. Raises InputError for what TensorRT-LLM cannot run, naming it."""
        plan = serving_plan(context)
        refuse(plan, self.name, ("trtllm",))
        found = workers(context, self.name)
        alone = len(found) == 1
        files: dict[str, str] = {}
        for name, pool in zip(pool_names(plan), plan.pools, strict=True):
            files[f"{name}.yaml"] = yaml_text(trtllm_options(context, pool, self.name))
        led = tuple(replace(worker, parts=worker.parts[:1]) for worker in found)
        for worker, leader in zip(found, led, strict=True):
            files[part_name(leader, 0)] = part_script(context, leader, 0, _command(context, worker, alone))
        scripts, rows = host_scripts(led)
        files |= scripts
        steps = [
            "Copy this folder to the same path on every host; TensorRT-LLM and the weights must be there.",
            "Run each host's script there, in any order; mpirun starts the other hosts of a worker that has several.",
        ]
        if split_pools(plan):
            files["disaggregated.yaml"] = yaml_text(_disaggregated(found))
            program = '"${TRTLLM_SERVE:-trtllm-serve}" disaggregated -c "$(dirname -- "$0")/disaggregated.yaml"'
            files["router.sh"] = router_script(Command(program, []))
            steps += ["When all workers serve, run `sh router.sh` where the workers' names resolve."]
        steps += [f"Send requests to {_where(alone, split_pools(plan))}."]
        notes = trtllm_notes(context, self.name, alone)
        files["README.md"] = serving_readme("Start with TensorRT-LLM", steps, rows, notes)
        return serving_export(context, files, notes)


def trtllm_options(context: Context, pool: PoolPlan, launcher: str) -> dict[str, Any]:
    """The engine's options, as `--config` reads them. Raises InputError for what TensorRT-LLM cannot run.

    Its attention data parallelism uses all ranks of a stage, so tp inside it must be 1; batch limits count one rank.
    The plan counts on prompts that are not cut and requests that are never evicted.
    """
    plan, layout = serving_plan(context), pool.layout
    if layout.attn_dp > 1 and layout.tp > 1:
        raise InputError(
            f"export: {launcher} gives every rank of a stage its own requests or none, but this plan has attn_dp "
            f"{layout.attn_dp} with tp {layout.tp}; hold --tp 1"
        )
    loading_format(context, launcher, {})
    cache = sum(size for name, size in pool.memory.items() if "cache" in name)
    other = sum(size for name, size in pool.memory.items() if "cache" not in name)
    budget = max(1, pool.engine.token_budget // layout.attn_dp)
    longest = max(each.isl for each in plan.load.lengths)
    options: dict[str, Any] = {
        "tensor_parallel_size": layout.stage_devices,
        "pipeline_parallel_size": layout.pp,
        "enable_attention_dp": layout.attn_dp > 1,
        "max_batch_size": max(1, pool.engine.max_sequences // layout.attn_dp),
        "max_num_tokens": budget,
        "enable_chunked_prefill": longest > budget,
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "kv_cache_config": {
            "free_gpu_memory_fraction": floor(1000 * cache / (pool.capacity_bytes - other)) / 1000,
            "dtype": "fp8" if plan.quantization.cache == "fp8" else "auto",
        },
    }
    if layout.ep * layout.moe_tp > 1:
        options |= {"moe_expert_parallel_size": layout.ep, "moe_tensor_parallel_size": layout.moe_tp}
    if layout.pp > 1:
        options["pp_partition"] = list(stage_layers(context, pool))
    drafts = draft_tokens(context, launcher)
    if drafts:
        options["speculative_config"] = {"decoding_type": "MTP", "num_nextn_predict_layers": drafts}
    if pool.phase != "aggregated":
        buffer = -(-longest // BLOCK_TOKENS) * BLOCK_TOKENS
        options["cache_transceiver_config"] = {"backend": "DEFAULT", "max_tokens_in_buffer": buffer}
    if pool.phase == "prefill":
        options["disable_overlap_scheduler"] = True
    return options


def trtllm_notes(context: Context, launcher: str, alone: bool = True) -> tuple[str, ...]:
    """What the user must arrange beside the files."""
    plan = serving_plan(context)
    notes = [*weights(context, launcher).notes, *loading_format(context, launcher, {})[1]]
    if not alone and not split_pools(plan):
        notes.append(
            "trtllm-serve balances no load over whole copies: put a load balancer before the ports of the table"
        )
    return (*notes, *plan_notes(plan, VERSION))


def _command(context: Context, worker: Worker, alone: bool) -> Command:
    model = weights(context, "tensorrt-llm").name
    serve = ["serve", model, "--backend", "pytorch", "--host", ANY_ADDRESS, "--port", str(serving_port(worker, alone))]
    config = f'--config "$here/{worker.pool_name}.yaml"'
    program = "${TRTLLM_SERVE:-trtllm-serve}"
    if len(worker.parts) == 1:
        return Command(program, [serve], [config])
    return Command("${MPIRUN:-mpirun}", [], _contexts(context, worker, serve, f"{program} "))


def _contexts(context: Context, worker: Worker, serve: list[str], program: str) -> list[str]:
    """One mpirun application context a host, so that each sees its own devices in order."""

    config = f'--config "$here/{worker.pool_name}.yaml"'
    words = " ".join(shlex.quote(word) for word in serve)
    lines = []
    for part in worker.parts:
        ranks = len(part.devices)
        variable, value = see_devices(context, part)
        where = f"-n {ranks} -H {plain_name(part.host, 'tensorrt-llm')}:{ranks} env {variable}={value}"
        lines.append(f"{where} trtllm-llmapi-launch {program}{words} {config}")
    return [' "$@" : \\\n  '.join(lines)]


def _disaggregated(found: tuple[Worker, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {"hostname": ANY_ADDRESS, "port": ROUTER_PORT, "backend": "pytorch"}
    for phase, side in _SIDES.items():
        mine = [worker for worker in found if worker.pool.phase == phase]
        document[side] = {
            "num_instances": len(mine),
            "urls": [f"{plain_name(worker.parts[0].host, 'tensorrt-llm')}:{worker.http_port}" for worker in mine],
            "router": {"type": "load_balancing"},
        }
    return document


def _where(alone: bool, split: bool) -> str:
    if alone:
        return f"port {ROUTER_PORT} of order 0"
    return f"port {ROUTER_PORT} of the router" if split else "the workers' ports, in their scripts"
