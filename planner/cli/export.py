"""`shardwright export`: a plan in a launcher's own form."""

from __future__ import annotations

import sys
from typing import Annotated

import typer


def export(
    plan: Annotated[str | None, typer.Argument(help="Plan file.")] = None,
    *,
    to: Annotated[str, typer.Option(help="Launcher; `--to list` names them, without a plan too.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write the launcher's files to this folder.")] = (
        None
    ),
    phase: Annotated[
        str | None, typer.Option(help="Only this phase of a plan of several. [default: all, each in its own files]")
    ] = None,
) -> None:
    """Write a plan in a launcher's own form; a plan that does not validate is refused with exit 5."""
    from ..errors import InputError
    from ..export import export_plan, list_exporters
    from ..files import write_folder
    from ..plan.io import load

    if to == "list":
        typer.echo("\n".join(list_exporters()))
        return
    if plan is None:
        raise InputError(f"export: name the plan file to write for {to}, such as plan.json")
    made = export_plan(load(plan), to, phase)
    if output is None:
        sys.stdout.write(made.text)
    else:
        write_folder(output, made.files)
        typer.echo(f"wrote {', '.join(sorted(made.files))} to {output}", err=True)
    for sentence in made.cannot_express:
        typer.echo(f"note: {sentence}", err=True)
