"""`shardwright topology`: accelerators, clusters and topology files."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(add_completion=False)

_Json = Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")]


@app.command("list")
def list_(
    accelerators: Annotated[bool, typer.Option("--accelerators", help="List accelerators, not clusters.")] = False,
    json: _Json = False,
) -> None:
    """List the cluster catalog, or the accelerators."""
    from ..report.text import console
    from ..report.topologies import accelerator_rows, cluster_rows, listing
    from .common import emit_json

    rows = accelerator_rows() if accelerators else cluster_rows()
    if json:
        emit_json(rows)
    else:
        console().print(listing("Accelerators" if accelerators else "Clusters (one unit; name:N for N of them)", rows))


@app.command()
def show(
    cluster: Annotated[str, typer.Argument(help="Catalog name such as dgx-h100:8, or a topology file.")],
    measured: Annotated[str | None, typer.Option(help="mpiGraph JSON whose matrix overrides nominal links.")] = None,
    json: _Json = False,
) -> None:
    """Show one topology: devices, links by class, and what collectives take."""
    from ..inputs import load_topology
    from ..report.topologies import print_topology
    from .common import emit_json

    topology, _ = load_topology(cluster, measured)
    if json:
        emit_json(topology.document)
    else:
        print_topology(topology)
