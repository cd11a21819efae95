"""Views of models: the catalog and one model's blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shardwright.models import (
    Attention,
    Experts,
    ModelGraph,
    Scan,
    activation_bytes_per_token,
    active_parameters,
    flops_per_token,
    kv_bytes_per_token,
    parameters,
)

from .text import console, count, si, table

if TYPE_CHECKING:
    from rich.table import Table


def attention_kind(graph: ModelGraph) -> str:
    """MHA, GQA, MQA, MLA, SSM or their mixture, with `+SWA` where a window is in force."""
    kinds: dict[str, None] = {}
    windowed = False
    for block in graph.layer_blocks():
        for op in block.operators:
            if isinstance(op, Scan):
                kinds["SSM"] = None
            elif isinstance(op, Attention):
                windowed = windowed or op.window is not None
                kinds[_kind(op)] = None
    return "/".join(kinds) + ("+SWA" if windowed else "")


def _kind(op: Attention) -> str:
    if op.latent_features:
        return "MLA"
    if op.kv_heads == op.heads:
        return "MHA"
    return "MQA" if op.kv_heads == 1 else "GQA"


def catalog_rows(graphs: Sequence[ModelGraph]) -> list[dict[str, Any]]:
    """One record a model, in bytes and counts."""
    return [
        {
            "name": graph.name,
            "architecture": graph.architecture,
            "layers": graph.num_layers,
            "parameters": parameters(graph),
            "active_parameters": active_parameters(graph),
            "attention": attention_kind(graph),
            "kv_bytes_per_token": kv_bytes_per_token(graph),
        }
        for graph in graphs
    ]


def catalog_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The catalog as a table."""
    return table(
        "Models",
        ("name", "layers", "parameters", "active", "attention", "KV/token"),
        (
            (
                row["name"],
                str(row["layers"]),
                si(row["parameters"], ""),
                si(row["active_parameters"], ""),
                row["attention"],
                si(row["kv_bytes_per_token"], "B"),
            )
            for row in rows
        ),
    )


def model_summary(graph: ModelGraph, seq: int) -> dict[str, Any]:
    """Everything `models show` prints, in bytes, FLOPs and counts."""
    return catalog_rows([graph])[0] | {
        "hidden_size": graph.hidden_size,
        "vocab_size": graph.vocab_size,
        "max_positions": graph.max_positions,
        "tied_embeddings": graph.tied_embeddings,
        "sequence_length": seq,
        "forward_flops_per_token": flops_per_token(graph, seq),
        "forward_backward_flops_per_token": 3 * flops_per_token(graph, seq),
        "activation_bytes_per_token": activation_bytes_per_token(graph),
        "blocks": [
            {
                "name": run.block.name,
                "role": run.block.role,
                "stack": run.stack,
                "repeat": run.repeat,
                "parameters": run.block.parameters,
                "active_parameters": run.block.active_parameters,
                "operators": [op.name for op in run.block.operators],
            }
            for run in graph.runs
        ],
    }


def print_model(graph: ModelGraph, seq: int) -> None:
    """The view of one model on the terminal."""
    summary = model_summary(graph, seq)
    out = console()
    out.print(f"{graph.name}  ({graph.architecture})", markup=False)
    out.print(
        table(
            "Per token",
            ("what", "value"),
            (
                ("parameters", count(summary["parameters"])),
                ("active parameters", count(summary["active_parameters"])),
                ("KV cache, 16 bit", si(summary["kv_bytes_per_token"], "B")),
                (f"forward FLOPs at {seq} tokens", si(summary["forward_flops_per_token"], "FLOP")),
                ("forward and backward", si(summary["forward_backward_flops_per_token"], "FLOP")),
                ("activations kept, 16 bit", si(summary["activation_bytes_per_token"], "B")),
            ),
        )
    )
    out.print(
        table(
            "Blocks in chain order",
            ("block", "repeat", "parameters", "active", "what"),
            (
                (
                    block["name"],
                    str(block["repeat"]),
                    count(block["parameters"]),
                    count(block["active_parameters"]),
                    " ".join(block["operators"]),
                )
                for block in summary["blocks"]
            ),
        )
    )
    experts = [op for block in graph.blocks for op in block.operators if isinstance(op, Experts)]
    if experts:
        out.print(f"{experts[0].experts} experts, {experts[0].topk} of them for each token", markup=False)
