"""SGLang: a configuration per pool, a script per worker and host, and its router in front of several workers."""

from __future__ import annotations

from math import floor
from typing import Any

from ..errors import InputError
from ..plan.serving import PoolPlan
from .base import Context, Export
from .serving_folder import Command, Engine, engine_export, http_url, serving_port, user_notes
from .serving_model import draft_tokens, loading_format, stage_layers, weights
from .serving_workers import ANY_ADDRESS, ROUTER_PORT, Worker, refuse, serving_plan, workers

VERSION = "0.5.23"
ONLINE_FORMATS = {"fp8": "fp8"}
DIST_PORT = 20000
BOOTSTRAP_PORT = 9000


class Sglang:
    """`sglang.launch_server`, several nodes of one worker joined by `--nnodes` and `--node-rank`."""

    name = "sglang"
    kinds = ("serving",)
    validated_with = f"sglang {VERSION} (its parser and checks), sglang-router 0.3.2 (its parser)"

    def __call__(self, context: Context) -> Export:
        """The folder. Raises InputError for what SGLang cannot run, naming it."""
        refuse(serving_plan(context), self.name, ("sglang",))
        found = workers(context, self.name)
        for worker in found:
            _check_nodes(worker)
        engine = Engine("SGLang", "sglang-router", sglang_options, _command, _router, sglang_notes)
        return engine_export(context, self.name, engine, found)


def sglang_options(context: Context, pool: PoolPlan, launcher: str) -> dict[str, Any]:
    """The options of a pool's engine by their long names.

    SGLang's tp counts all ranks of a stage; attention data parallelism divides them again. Its memory fraction covers
    weights and KV cache alone, and its limits count a whole worker. Raises InputError for what it cannot run.
    """
    plan, layout = serving_plan(context), pool.layout
    form, _ = loading_format(context, launcher, ONLINE_FORMATS)
    drafts = draft_tokens(context, launcher)
    if drafts and layout.pp > 1:
        raise InputError(f"export: {launcher} drafts no tokens with pp {layout.pp}; hold --pp 1")
    options: dict[str, Any] = {
        "model-path": weights(context, launcher).name,
        "dtype": "bfloat16",
        "tp-size": layout.stage_devices,
        "pp-size": layout.pp,
        "attn-dp-size": layout.attn_dp,
        "ep-size": layout.ep,
        "mem-fraction-static": static_fraction(pool),
        "max-running-requests": pool.engine.max_sequences,
        "chunked-prefill-size": pool.engine.token_budget,
        "kv-cache-dtype": "fp8_e4m3" if plan.quantization.cache == "fp8" else "auto",
    }
    if pool.engine.policy == "mixed":
        options["enable-mixed-chunk"] = True
    if form is not None:
        options["quantization"] = form
    if drafts:
        options |= {
            "speculative-algorithm": "EAGLE",
            "speculative-num-steps": drafts,
            "speculative-eagle-topk": 1,
            "speculative-num-draft-tokens": drafts + 1,
        }
    if pool.phase != "aggregated":
        options |= {"disaggregation-mode": pool.phase, "disaggregation-transfer-backend": "nixl"}
    return options


def sglang_environment(context: Context, pool: PoolPlan) -> dict[str, str]:
    """What SGLang takes from the environment: the layers of every stage."""
    if pool.layout.pp == 1:
        return {}
    return {"SGLANG_PP_LAYER_PARTITION": ",".join(map(str, stage_layers(context, pool)))}


def sglang_flags(options: dict[str, Any]) -> list[str]:
    """Options as words of a command line."""
    words = []
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return words


def static_fraction(pool: PoolPlan) -> float:
    """Weights and KV cache as a share of a device, rounded down to a thousandth."""
    static = sum(size for name, size in pool.memory.items() if "workspace" not in name)
    return floor(1000 * static / pool.capacity_bytes) / 1000


def sglang_notes(context: Context, launcher: str) -> tuple[str, ...]:
    """What the user must arrange beside the files."""
    return user_notes(context, launcher, ONLINE_FORMATS, VERSION)


def _check_nodes(worker: Worker) -> None:
    nodes, stages = len(worker.parts), worker.pool.layout.pp
    if nodes % stages and stages % nodes:
        raise InputError(
            f"export: sglang puts whole stages on a node or whole nodes in a stage, but {worker.name} has pp {stages} "
            f"on {nodes} nodes"
        )


def _command(context: Context, worker: Worker, index: int, alone: bool) -> Command:
    words = [["--host", ANY_ADDRESS, "--port", str(serving_port(worker, alone))]]
    lines = [
        f'--config "$here/{worker.pool_name}.yaml"',
        f'--dist-init-addr "${{MASTER_ADDR:-$first_host}}:{worker.port(DIST_PORT)}"',
    ]
    if len(worker.parts) > 1:
        words.append(["--nnodes", str(len(worker.parts)), "--node-rank", str(index)])
    if worker.pool.phase == "prefill":
        words.append(["--disaggregation-bootstrap-port", str(worker.port(BOOTSTRAP_PORT))])
    program = "${PYTHON:-python3} -m sglang.launch_server"
    return Command(program, words, lines, sglang_environment(context, worker.pool))


def _router(found: tuple[Worker, ...], split: bool) -> Command:
    words = [["--host", ANY_ADDRESS, "--port", str(ROUTER_PORT), "--policy", "power_of_two"]]
    if not split:
        words.append(["--worker-urls", *(http_url(worker) for worker in found)])
    else:
        words.append(["--pd-disaggregation"])
        for worker in found:
            port = [str(worker.port(BOOTSTRAP_PORT))] if worker.pool.phase == "prefill" else []
            words.append([f"--{worker.pool.phase}", http_url(worker), *port])
    return Command("${PYTHON:-python3} -m sglang_router.launch_router", words)
