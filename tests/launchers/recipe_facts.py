# ruff: noqa: T201
"""What NVIDIA's published recipes say, read by running them: the functions of Megatron-Bridge's perf_recipes.

    python -m tests.launchers.recipe_facts FILE.json [--write]

FILE.json lists the recipes. Facts that it has otherwise, or not at all and that are not the usual ones, are compared
with the committed benchmarks/published_facts.json, or written there. It needs `make .venv-launchers/done`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks import published_recipes
from tests.launchers import bridge_recipes

FILE = Path(published_recipes.__file__).with_name("published_facts.json")
_LETTERS = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}


def facts(config: Any) -> dict[str, Any]:
    """The plan in a recipe's own configuration object, in the words of `published_recipes.USUAL`."""
    model = config.model
    mixture = bool(getattr(model, "num_moe_experts", None))
    recompute, modules, layers = _recomputation(model)
    written = _layout(model)
    vpp = model.virtual_pipeline_model_parallel_size or 1
    return {
        "tp": model.tensor_model_parallel_size,
        "pp": model.pipeline_model_parallel_size,
        "cp": model.context_parallel_size,
        "vpp": len(published_recipes.layout(written)) // model.pipeline_model_parallel_size if written else vpp,
        "ep": model.expert_model_parallel_size or 1,
        "etp": (model.expert_tensor_parallel_size or model.tensor_model_parallel_size) if mixture else 1,
        "sp": bool(model.sequence_parallel) and model.tensor_model_parallel_size > 1,
        "gbs": config.train.global_batch_size,
        "mbs": config.train.micro_batch_size,
        "sequence": _sequence(config),
        "layout": written,
        "cp_comm": _cp_comm(model),
        "zero": _zero(config),
        "replicas": config.ddp.num_distributed_optimizer_instances,
        "optimizer": config.optimizer.optimizer.removeprefix("dist_"),
        "gradient_bytes": 4 if _mixed_precision(config).grad_reduce_in_fp32 else 2,
        "moment_bytes": _moment_bytes(config.optimizer),
        "offload": _offload(model),
        "recompute": recompute,
        "recompute_modules": modules,
        "recompute_num_layers": layers,
    }


def _sequence(config: Any) -> int:
    """Tokens of one sequence: of a video the patches of its latents, which no part of the model looks up elsewhere."""
    data = config.dataset
    if not hasattr(data, "F_latents"):
        return int(config.model.seq_length)
    frames, side = data.F_latents // data.patch_temporal, data.patch_spatial
    return int(frames * (data.H_latents // side) * (data.W_latents // side))


def _layout(model: Any) -> str:
    """The virtual stages in Megatron's letters, empty where they are alike.

    `account_for_…` counts the embedding or the loss as a layer; the first or last stage may have a number of its own.
    """
    written = model.pipeline_model_parallel_layout
    if isinstance(written, str):
        return written
    if written:
        return _folded(["".join(_LETTERS[each] for each in stage) for stage in written])
    stages = model.pipeline_model_parallel_size * (model.virtual_pipeline_model_parallel_size or 1)
    ends = (model.num_layers_in_first_pipeline_stage or 0, model.num_layers_in_last_pipeline_stage or 0)
    counted = (bool(model.account_for_embedding_in_pipeline_split), bool(model.account_for_loss_in_pipeline_split))
    if stages == 1 or not any((*ends, *counted)):
        return ""
    if any(ends):
        share = (model.num_layers - sum(ends)) // (stages - sum(map(bool, ends)))
        layers = [ends[0] or share, *[share] * (stages - 2), ends[1] or share]
    else:
        share = (model.num_layers + sum(counted)) // stages
        layers = [share - counted[0], *[share] * (stages - 2), share - counted[1]]
    if sum(layers) != model.num_layers:
        raise ValueError(f"stages of {layers} layers are not the model's {model.num_layers}")
    return _folded(["t" * count for count in layers])


def _folded(stages: list[str]) -> str:
    """Stages with their repetitions counted: `Et|(t*4|)*14tL`."""
    runs = [(stage, len(list(group))) for stage, group in groupby(stages)]
    words = [(re.sub(r"tt+", lambda found: f"t*{len(found[0])}", stage), times) for stage, times in runs]
    return "".join(f"{word}|" if times == 1 else f"({word}|)*{times}" for word, times in words[:-1]) + "|".join(
        [words[-1][0]] * words[-1][1]
    )


def _cp_comm(model: Any) -> str:
    found = (model.cp_comm_type or "p2p") if model.context_parallel_size > 1 else "p2p"
    return {"allgather": "all_gather"}.get(found, found)


def _zero(config: Any) -> int:
    """Megatron-FSDP shards by its strategy; a `dist_` optimizer shards states layer by layer."""
    if config.ddp.use_megatron_fsdp:
        return {"optim": 1, "optim_grads": 2, "optim_grads_params": 3}[config.ddp.data_parallel_sharding_strategy]
    layer_wise = config.optimizer.optimizer.startswith("dist_") or config.optimizer.use_layer_wise_distributed_optimizer
    return int(config.ddp.use_distributed_optimizer or layer_wise)


def _moment_bytes(optimizer: Any) -> int:
    if not optimizer.use_precision_aware_optimizer:
        return 8
    moments = (optimizer.exp_avg_dtype, optimizer.exp_avg_sq_dtype)
    return sum(_BYTES[str(dtype).removeprefix("torch.")] for dtype in moments)


def _mixed_precision(config: Any) -> Any:
    from megatron.bridge.training.mixed_precision import get_mixed_precision_config

    return get_mixed_precision_config(config.mixed_precision)


def _offload(model: Any) -> bool:
    return any(getattr(model, name, False) for name in ("cpu_offloading", "fine_grained_activation_offloading"))


def _recomputation(model: Any) -> tuple[str, list[str], int | None]:
    """Granularity, modules, and how many layers of a stage, None for all; of hyper-connections (`mhc`) no plan says."""
    if model.recompute_granularity == "full":
        return "full", [], model.recompute_num_layers if model.recompute_method == "block" else None
    modules = sorted(each for each in model.recompute_modules or () if each in published_recipes.MODULES)
    if model.recompute_granularity == "selective" and modules:
        return "selective", modules, None
    return "none", [], None


def differences(entry: dict[str, Any], config: Any) -> dict[str, Any]:
    """The facts that the file has otherwise or not at all, but for usual ones."""
    said = published_recipes.told({**entry, "recipe": ""})
    found = facts(config)
    return {key: value for key, value in found.items() if value != said[key]}


def main() -> int:
    """Write or compare; the number of recipes that differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    recipes = bridge_recipes.published()
    found = {
        entry["recipe"]: differences(entry, recipes[entry["recipe"]]())
        for entry in json.loads(Path(options.file).read_text(encoding="utf-8"))["recipes"]
    }
    found = {name: row for name, row in found.items() if row}
    if options.write:
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(found.items()))
        FILE.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")
        return 0
    names = {*found, *published_recipes.FACTS}
    wrong = [name for name in sorted(names) if found.get(name) != published_recipes.FACTS.get(name)]
    print("\n".join(f"{name}: {found.get(name)} != {published_recipes.FACTS.get(name)}" for name in wrong))
    return len(wrong)


if __name__ == "__main__":
    sys.exit(main())
