"""How integer programs are solved here: on one thread and by deterministic time, so that answers repeat."""

from __future__ import annotations

from typing import Any

LIMIT = 1.0


def sequential(limit: float = LIMIT) -> Any:
    """A CP-SAT solver of OR-Tools with one worker that stops after `limit` units of its deterministic time."""
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_deterministic_time = limit
    return solver
