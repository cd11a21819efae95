"""`shardwright validate`: does a plan hold?"""

from __future__ import annotations

from typing import Annotated

import typer


def validate(
    plan: Annotated[str, typer.Argument(help="Plan file.")],
    json: Annotated[bool, typer.Option("--json", help="Only JSON on stdout.")] = False,
) -> None:
    """Check a plan from first principles; exit 5 when it does not hold."""
    from ..errors import InvalidPlan
    from ..inputs import stale_inputs
    from ..plan.io import load
    from ..validate import validate_plan
    from .common import emit_json

    document = load(plan)
    problems = stale_inputs(document) + validate_plan(document)
    if json:
        emit_json({"valid": not problems, "problems": problems})
    if problems:
        more = f" (and {len(problems) - 1} more: --json lists them)" if len(problems) > 1 else ""
        raise InvalidPlan(f"plan {plan}: {problems[0]}{more}")
    if not json:
        typer.echo(f"plan {plan} holds: {document.optimality.objective} {document.optimality.value:.6g}")
