"""Further measured training runs in columns of their own: Sailor, SimuMax and AMP, as runs the planner can predict.

What their tables leave out is filled from their papers and repositories and named in each function.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from shardwright import models
from shardwright.models import ModelError, ModelGraph, TransformerShape
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.strategy import Strategy
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import TopologyError

from .cells import Row, UnusableError, positive, required, text
from .clusters import Cluster
from .runs import Memory, Run, Skipped, general, read_rows, runs_of
from .strategies import layers_between

_DGX_B200 = Cluster("B200-SXM-180GB", 1, 8, 1, 8, 3200, "ib")


def sailor_run(row: Row) -> Run:
    """Sailor on Clariden: GH200 nodes of four, 200 Gb/s Slingshot for each, sequence 2048 in 16 bits under
    Megatron-DeepSpeed without its fused kernels and without recompute.

    Its list of layers is the embedding, the transformer's layers, and the head.
    """
    if text(row, "cluster") != "clariden" or set(re.split(r"[|/,]", text(row, "gpu_types"))) != {"GH-96"}:
        raise UnusableError("cluster unknown")
    model = _sailor_model(text(row, "model"))
    nodes, pp, devices = required(row, "nodes"), required(row, "pp"), required(row, "gpus")
    if devices % nodes or required(row, "tp") * pp * required(row, "dp") != devices:
        raise UnusableError("degrees do not multiply to gpus")
    stages = [int(each) for each in re.findall(r"\d+", text(row, "stage_layers"))]
    if sum(stages) != model.num_layers + 2 or len(stages) != pp:
        raise UnusableError("stages do not hold the model")
    stages[0] -= 1
    stages[-1] -= 1
    strategy = Strategy(
        tp=required(row, "tp"),
        pp=pp,
        dp_shard=required(row, "dp"),
        mbs=required(row, "mbs"),
        zero=0,
        stage_layers=tuple(stages) if pp > 1 else None,
    )
    cluster = Cluster("GH200-96GB", nodes, devices // nodes, 1, 4, 800, "slingshot")
    job = TrainingJob(
        gbs=required(row, "gbs"), sequence_length=2048, precision="fp16", framework="megatron-eager", gradient_bytes=2
    )
    memory = positive(row, "measured_peak_mem_bytes")
    return Run(
        id=Path(text(row, "file")).stem + f"-{text(row, 'gpus')}",
        source="Sailor, GH200",
        model=model,
        cluster=cluster,
        job=job,
        strategy=strategy,
        measured_s=positive(row, "measured_s_per_iter"),
        memory=None if memory is None else Memory(memory, "peak, as the source calls it"),
        assumptions=("sequence 2048, fp16, no recompute, 200 Gb/s for each GH200",),
        group=("Sailor", model, cluster, job.gbs),
    )


def simumax_run(row: Row) -> Run:
    """SimuMax on eight B200s under Megatron-LM in bf16: micro-batches of one sequence of 4,096 tokens unless the case
    names another, ZeRO 1, fp32 gradients, nothing recomputed; DeepSeek models cut to one dense layer and the rest
    mixtures, without MTP."""
    case = text(row, "case")
    degrees = {name: int(value) for name, value in re.findall(r"(tp|ep|pp|cp|dp)(\d+)", case)}
    sequence = re.search(r"seq(\d+)", case)
    layers, microbatches = required(row, "layer_num"), required(row, "mbc")
    model = _cut(text(row, "model"), layers)
    world, ranks = 8, degrees.get("tp", 1) * degrees.get("cp", 1) * degrees.get("pp", 1)
    if ranks < 1 or world % ranks:
        raise UnusableError("degrees do not multiply to 8")
    dp = world // ranks
    strategy = Strategy(
        tp=degrees.get("tp", 1),
        sp=degrees.get("tp", 1) > 1,
        cp=degrees.get("cp", 1),
        pp=degrees.get("pp", 1),
        ep=degrees.get("ep", 1),
        dp_shard=dp,
        cp_comm="a2a" if degrees.get("cp", 1) > 1 else "p2p",
        stage_layers=(layers - layers // 2, layers // 2) if degrees.get("pp", 1) == 2 else None,
    )
    tokens = int(sequence.group(1)) if sequence else 4096
    job = TrainingJob(gbs=microbatches * dp, sequence_length=tokens, framework="megatron-2025")
    allocated, milliseconds = positive(row, "measured_alloc_gib"), positive(row, "measured_ms")
    return Run(
        id=case,
        source="SimuMax, B200",
        model=model,
        cluster=_DGX_B200,
        job=job,
        strategy=strategy,
        measured_s=None if milliseconds is None else milliseconds / 1e3,
        memory=None if allocated is None else Memory(allocated * 2**30, "allocated"),
        assumptions=("micro-batches of one sequence, bf16, ZeRO 1, one dense layer in DeepSeek models",),
        group=("SimuMax", model, tokens, job.gbs),
    )


def amp_run(row: Row) -> Run:
    """AMP on 16 T4s: GPT-2 of 24 layers, fp16, DeepSpeed with Megatron-LM 1.1.5, nothing recomputed."""
    if text(row, "cluster").lower().count("t4") == 0 or "v100" in text(row, "cluster").lower():
        raise UnusableError("accelerators of several kinds")
    measured = positive(row, "measured_s_per_iter")
    if measured is None:
        raise UnusableError("did not run")
    shape = TransformerShape(
        layers=24, hidden=1024, heads=16, ffn=4096, vocab=52256, bias=True, tied=True, learned_positions=True,
        max_positions=1024,
    )  # fmt: skip
    pp = required(row, "pp")
    cuts = [int(each) for each in re.findall(r"\d+", text(row, "layer_partition_cuts"))]
    model = models.transformer(shape, "gpt2-24l-1024h")
    strategy = Strategy(
        tp=required(row, "tp"),
        pp=pp,
        dp_shard=required(row, "dp"),
        mbs=required(row, "micro_bs"),
        zero=0,
        stage_layers=layers_between(cuts, 24) if pp > 1 else None,
    )
    job = TrainingJob(gbs=required(row, "global_bs"), sequence_length=1024, precision="fp16", framework="megatron-2020")
    return Run(
        id=f"{text(row, 'experiment')} {strategy.label()}",
        source="AMP, T4",
        model=model,
        cluster=Cluster("T4", 4, 4, 1, 4, 50, "ethernet", fabric_gbit=50),
        job=job,
        strategy=strategy,
        measured_s=measured,
        memory=None,
        assumptions=("heads 16, fp16, nothing recomputed",),
        group=("AMP", model, job.gbs),
    )


Runs = list[Run | Skipped]
READERS: Mapping[str, Callable[[Row], Run]] = {
    "measured_grad_allreduce_s": sailor_run,
    "measured_alloc_gib": simumax_run,
    "layer_partition_cuts": amp_run,
}


NEEDED = ("gpu", "num_gpus", "gbs")


def runs_in(path: str | Path, keep: Callable[[Row], bool] = lambda row: True, *, timed: bool = True) -> Runs:
    """The runs of a file in the columns of training.csv, of which only rows to keep count, or in those of the others.

    Raises TableError when it has the columns of neither.
    """
    found = other_runs(path)
    if found is not None:
        return found
    return runs_of([row for row in read_rows(path, NEEDED) if keep(row)], timed=timed)


def other_runs(path: str | Path) -> Runs | None:
    """The runs of a file that has one of these tables' columns; None when it has none of them."""
    rows = read_rows(path)
    readers = [reader for column, reader in READERS.items() if rows and column in rows[0]]
    if not readers:
        return None
    found: Runs = []
    for i, row in enumerate(rows):
        try:
            found.append(readers[0](row))
        except UnusableError as reason:
            found.append(Skipped(f"row {i + 2}", Path(path).stem, str(reason)))
        except (ShardwrightError, ModelError, TopologyError, ValueError) as error:
            reason = f"configuration contradicts itself: {general(str(error))}"
            found.append(Skipped(f"row {i + 2}", Path(path).stem, reason))
    return found


@lru_cache
def _sailor_model(name: str) -> ModelGraph:
    """Layers, width, heads and vocabulary of the models Sailor measured."""
    sizes = {"OPT-350M": (24, 1024, 16, 50272), "GPT-NEO-2.7B": (32, 2560, 20, 50304)}.get(name.upper())
    if sizes is None:
        raise UnusableError("model unknown")
    layers, hidden, heads, vocab = sizes
    shape = TransformerShape(
        layers=layers, hidden=hidden, heads=heads, ffn=4 * hidden, vocab=vocab, bias=True, tied=True,
        learned_positions=True, max_positions=2048,
    )  # fmt: skip
    return models.transformer(shape, name.lower())


@lru_cache
def _cut(name: str, layers: int) -> ModelGraph:
    """A catalog model with fewer layers; of a DeepSeek model one dense layer is kept."""
    entry = models.catalog_entry({"llama3-405b": "llama-3.1-405b"}.get(name, name))
    config: dict[str, Any] = dict(entry.config) | {"num_hidden_layers": layers}
    if "deepseek" in name:
        config |= {"first_k_dense_replace": 1, "num_nextn_predict_layers": 0}
    return models.read_config(config, f"{name}-l{layers}")
