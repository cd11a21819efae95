"""`shardwright models`: the catalog and what a configuration means."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

_Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]


@app.command("list")
def list_(json: _Json = False) -> None:
    """List the catalog."""
    from shardwright.models import list_models, model

    from ..report.models import catalog_rows, catalog_table
    from ..report.text import console
    from .common import emit_json

    rows = catalog_rows([model(name) for name in list_models()])
    if json:
        emit_json(rows)
    else:
        console().print(catalog_table(rows))


@app.command()
def show(
    model: Annotated[str, typer.Argument(help="Catalog name, config.json, or a directory with one.")],
    seq: Annotated[int, typer.Option(help="Sequence length in tokens for FLOPs.")] = 4096,
    json: _Json = False,
) -> None:
    """Show one model: blocks, parameters, KV cache, FLOPs and activations per token."""
    from ..errors import InputError
    from ..inputs import load_model
    from ..report.models import model_summary, print_model
    from ..workload.serving import MAX_TOKENS
    from .common import emit_json

    if not 1 <= seq <= MAX_TOKENS:
        raise InputError(f"--seq must be from 1 to {MAX_TOKENS} but got {seq}")
    graph, _ = load_model(model)
    if json:
        emit_json(model_summary(graph, seq))
    else:
        print_model(graph, seq)
