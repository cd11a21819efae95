"""Trains a tiny Llama for some steps as the plan says; every rank prints where it is and, at the end, the losses.

SHARDWRIGHT_PLAN=plan.json python train_by_plan.py alone     the whole model in one process, undivided
sh node-N.sh train_by_plan.py                                 one rank of the exported plan
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent))
import shardwright_plan
import tiny_llama

STEPS = 3
RATE = 1e-2


def alone(plan: shardwright_plan.Plan) -> list[float]:
    """Losses of the undivided model."""
    model = tiny_llama.Llama(plan.model)
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=RATE), []
    for step in range(STEPS):
        tokens, targets = tiny_llama.batch(plan.model, step, plan.job["gbs"], plan.job["sequence_length"])
        loss = tiny_llama.loss_of(model(tokens), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def divided_tensors(part: nn.Module, mesh: Any, sp: bool) -> None:
    """Tensor parallelism of one stage, with the norms on parts of the sequence under `sp`."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    apart = Shard(1) if sp else Replicate()
    whole = PrepareModuleInput(input_layouts=(apart,), desired_input_layouts=(Replicate(),))
    columns, rows = ColwiseParallel(), RowwiseParallel(output_layouts=apart)
    ways: dict[str, Any] = {
        "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=apart),
        "head": ColwiseParallel(input_layouts=apart, output_layouts=Replicate()),
    }
    if sp:
        ways["norm"] = SequenceParallel()
    layer: dict[str, Any] = {f"attention.w{name}": columns for name in "qkv"}
    layer |= {"attention.wo": rows, "mlp.w1": columns, "mlp.w3": columns, "mlp.w2": rows}
    layer |= {"attention": whole, "mlp": whole}
    if sp:
        layer |= {"attention_norm": SequenceParallel(), "mlp_norm": SequenceParallel()}
    parallelize_module(part, mesh, {name: way for name, way in ways.items() if getattr(part, name) is not None})
    for each in part.layers.values():
        parallelize_module(each, mesh, layer)


def divided_states(part: nn.Module, mesh: Any, zero: int) -> None:
    """FSDP2 over the data-parallel ranks, layer by layer."""
    from torch.distributed.fsdp import fully_shard

    for each in [*part.layers.values(), part]:
        fully_shard(each, mesh=mesh, reshard_after_forward=zero == 3)


def as_planned(plan: shardwright_plan.Plan) -> list[float]:
    """Losses of the plan's split, on every rank."""
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleInterleaved1F1B

    strategy, job = plan.strategy, plan.job
    mesh = plan.device_mesh("cpu")
    stages = plan.stages(mesh.get_local_rank("pp"))
    report(plan, mesh, stages)
    parts = [tiny_llama.Llama(plan.model, stage.layers, stage.holds) for stage in stages]
    for part in parts:
        divided_tensors(part, mesh["tp"], strategy["sp"])
        divided_states(part, mesh["dp_replicate", "dp_shard"], strategy["zero"])
    pipeline = [
        PipelineStage(part, stage.index, plan.virtual_stages, torch.device("cpu"), group=mesh.get_group("pp"))
        for part, stage in zip(parts, stages, strict=True)
    ]
    single = len(pipeline) == 1
    schedule = (Schedule1F1B if single else ScheduleInterleaved1F1B)(
        pipeline[0] if single else pipeline, plan.microbatches, loss_fn=tiny_llama.loss_of
    )
    optimizer = torch.optim.AdamW([weight for part in parts for weight in part.parameters()], lr=RATE)
    ranks = strategy["dp_replicate"] * strategy["dp_shard"]
    mine = mesh.get_local_rank("dp_replicate") * strategy["dp_shard"] + mesh.get_local_rank("dp_shard")
    last = any("head" in stage.holds for stage in stages)
    losses = []
    for step in range(STEPS):
        tokens, targets = tiny_llama.batch(plan.model, step, job["gbs"], job["sequence_length"])
        tokens, targets = (whole.chunk(ranks)[mine] for whole in (tokens, targets))
        found: list[torch.Tensor] = []
        first = any("embedding" in stage.holds for stage in stages)
        schedule.step(*((tokens,) if first else ()), **({"target": targets, "losses": found} if last else {}))
        optimizer.step()
        optimizer.zero_grad()
        share = torch.stack(found).mean() / (ranks * strategy["tp"]) if last else torch.zeros(())
        distributed.all_reduce(share)
        losses.append(float(share))
    return losses


def report(plan: shardwright_plan.Plan, mesh: Any, stages: list[shardwright_plan.Stage]) -> None:
    """Where this rank is, and what it holds."""
    device = os.environ["CUDA_VISIBLE_DEVICES"].split(",")[int(os.environ["LOCAL_RANK"])]
    place = {"rank": distributed.get_rank(), "host": os.environ["PLACE"], "device": int(device)}
    place |= {"world": distributed.get_world_size(), "mesh": list(mesh.get_coordinate())}
    say(place | {"layers": [list(stage.layers) for stage in stages]})


def say(what: dict[str, Any]) -> None:
    """One line on stdout in one piece: ranks share it."""
    os.write(1, (json.dumps(what) + "\n").encode())


def main() -> None:
    torch.set_num_threads(1)
    plan = shardwright_plan.load()
    if sys.argv[1:] == ["alone"]:
        losses = alone(plan)
    else:
        distributed.init_process_group("gloo")
        losses = as_planned(plan)
        distributed.destroy_process_group()
    say({"losses": losses})


if __name__ == "__main__":
    main()
