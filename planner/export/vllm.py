"""vLLM: a configuration per pool, a script per worker and host, and vllm-router in front of several workers."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..plan.serving import PoolPlan
from .base import Context, Export
from .serving_folder import Command, Engine, engine_export, http_url, serving_port, user_notes
from .serving_model import draft_tokens, loading_format, stage_layers, weights
from .serving_workers import ANY_ADDRESS, ROUTER_PORT, Worker, refuse, replica_order, serving_plan, workers

VERSION = "0.32.0"
ONLINE_FORMATS = {"fp8": "fp8"}
CONNECTOR = "NixlConnector"
MASTER_PORT = 29500
SIDE_CHANNEL_PORT = 5600
DATA_PARALLEL_PORT = 13345
_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


class Vllm:
    """`vllm serve`, several nodes of one worker joined by `--nnodes` and `--node-rank`."""

    name = "vllm"
    kinds = ("serving",)
    validated_with = f"vllm {VERSION} (its parser, and an engine on CPUs), vllm-router 0.1.17 (its parser)"

    def __call__(self, context: Context) -> Export:
        """The folder. Raises InputError for what vLLM cannot run, naming it."""
        refuse(serving_plan(context), self.name, ("vllm",))
        found = workers(context, self.name, replica_order)
        engine = Engine("vLLM", "vllm-router", vllm_options, _command, _router, vllm_notes)
        return engine_export(context, self.name, engine, found)


def vllm_options(context: Context, pool: PoolPlan, launcher: str) -> dict[str, Any]:
    """The options of a pool's engine by their long names. Raises InputError for what vLLM cannot run."""
    layout, split = pool.layout, pool.phase != "aggregated"
    if layout.ep > 1 and layout.moe_tp > 1:
        raise InputError(
            f"export: {launcher} spreads experts over all ranks or none, but this plan has ep {layout.ep} with "
            f"moe_tp {layout.moe_tp}; hold --moe-tp 1"
        )
    if pool.phase == "decode" and layout.pp > 1:
        raise InputError(
            f"export: vLLM's {CONNECTOR} hands no KV cache to decoders of several stages, but this plan has "
            f"pp {layout.pp} in its decode pool; hold --pp 1"
        )
    form, _ = loading_format(context, launcher, ONLINE_FORMATS)
    drafts = draft_tokens(context, launcher)
    plan = serving_plan(context)
    options: dict[str, Any] = {
        "model": weights(context, launcher).name,
        "dtype": "bfloat16",
        "tensor-parallel-size": layout.tp,
        "pipeline-parallel-size": layout.pp,
        "gpu-memory-utilization": pool.engine.memory_fraction,
        "max-num-seqs": max(1, pool.engine.max_sequences // layout.attn_dp),
        "max-num-batched-tokens": max(1, pool.engine.token_budget // layout.attn_dp),
        "max-model-len": "auto",
        "kv-cache-dtype": "fp8" if plan.quantization.cache == "fp8" else "auto",
    }
    if layout.attn_dp > 1:
        options["data-parallel-size"] = layout.attn_dp
    if layout.ep > 1:
        options["enable-expert-parallel"] = True
    if form is not None:
        options["quantization"] = form
    if drafts:
        options["speculative-config"] = {"method": "mtp", "num_speculative_tokens": drafts}
    if split:
        options["kv-transfer-config"] = {"kv_connector": CONNECTOR, "kv_role": _ROLES[pool.phase]}
    return options


def vllm_environment(context: Context, pool: PoolPlan) -> dict[str, str]:
    """What vLLM takes from the environment: the layers of every stage."""
    if pool.layout.pp == 1:
        return {}
    return {"VLLM_PP_LAYER_PARTITION": ",".join(map(str, stage_layers(context, pool)))}


def vllm_flags(options: dict[str, Any]) -> list[str]:
    """Options as words of a command line; nested ones by dots, so that no word holds JSON."""
    words = []
    for name, value in options.items():
        if isinstance(value, dict):
            for key, inner in value.items():
                words += [f"--{name}.{key}", str(inner)]
        elif value is True:
            words.append(f"--{name}")
        else:
            words += [f"--{name}", str(value)]
    return words


def vllm_notes(context: Context, launcher: str) -> tuple[str, ...]:
    """What the user must arrange beside the files."""
    return user_notes(context, launcher, ONLINE_FORMATS, VERSION)


def _command(context: Context, worker: Worker, index: int, alone: bool) -> Command:
    pool = worker.pool
    words: list[list[str]] = []
    lines = [f'--config "$here/{worker.pool_name}.yaml"']
    environment = vllm_environment(context, pool)
    if index == 0:
        words.append(["--host", ANY_ADDRESS, "--port", str(serving_port(worker, alone))])
    if len(worker.parts) > 1:
        words.append(["--nnodes", str(len(worker.parts)), "--node-rank", str(index)])
        if index:
            words.append(["--headless"])
        if pool.layout.attn_dp > 1:
            words.append(["--data-parallel-rpc-port", str(worker.port(DATA_PARALLEL_PORT))])
        lines.append(f'--master-addr "${{MASTER_ADDR:-$first_host}}" --master-port {worker.port(MASTER_PORT)}')
    if pool.phase != "aggregated":
        environment["VLLM_NIXL_SIDE_CHANNEL_HOST"] = worker.parts[index].host
        environment["VLLM_NIXL_SIDE_CHANNEL_PORT"] = str(worker.port(SIDE_CHANNEL_PORT))
    return Command("${VLLM:-vllm} serve", words, lines, environment)


def _router(found: tuple[Worker, ...], split: bool) -> Command:
    words = [["--host", ANY_ADDRESS, "--port", str(ROUTER_PORT), "--policy", "power_of_two"]]
    if split:
        words.append(["--vllm-pd-disaggregation"])
        words += [[f"--{worker.pool.phase}", http_url(worker)] for worker in found]
    else:
        words.append(["--worker-urls", *(http_url(worker) for worker in found)])
    return Command("${VLLM_ROUTER:-vllm-router}", words)
