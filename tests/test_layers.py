"""The arrows of the house: planner joins the three folders below it, which know neither it nor each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("topologies", "models", "solvers", "planner")
BELOW = ("topologies", "models", "solvers")
FLOORS = (
    {"errors", "version", "files", "inputs", "workload", "strategy", "plan"},
    {"costs"},
    {"training", "serving", "fleet", "experts"},
    {"validate", "explain", "report", "export"},
    {"api", "testing"},
    {"cli", "__init__"},
)


def imports_of(path: Path) -> Iterator[tuple[int, int, str]]:
    """(line, relative level, module) of every import, also those inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, 0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module is None:
                yield from ((node.lineno, node.level, alias.name) for alias in node.names)
            elif node.module == "shardwright":
                yield from ((node.lineno, node.level, f"shardwright.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.level, node.module


def wrong_arrows(path: Path, root: Path = ROOT) -> list[str]:
    """Every import of a module that breaks the arrows, one sentence each."""
    parts = path.relative_to(root).with_suffix("").parts
    folder = parts[0]
    found = []
    for line, level, module in imports_of(path):
        place = f"{path.relative_to(root)}:{line}"
        first, _, rest = module.partition(".")
        if level == 0 and first in FOLDERS:
            found.append(f"{place}: bare import of {module}; write shardwright.{module} or a relative import")
        if level == 0 and first == "shardwright":
            target = rest.partition(".")[0]
            if target == folder:
                found.append(f"{place}: import {module} relatively inside {folder}")
            elif folder in BELOW:
                found.append(f"{place}: {folder} must not import {module}")
        if level >= len(parts):
            found.append(f"{place}: relative import leaves {folder}")
        if folder == "planner" and level and _floor(parts[1]) < _floor(_planner_target(parts, level, module)):
            found.append(f"{place}: {parts[1]} is below {_planner_target(parts, level, module)}")
    return found


def _planner_target(parts: tuple[str, ...], level: int, module: str) -> str:
    base = list(parts[:-level]) if level <= len(parts) else []
    return [*base, *module.split(".")][1]


def _floor(name: str) -> int:
    return next(number for number, names in enumerate(FLOORS) if name in names)


def modules() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_every_folder_has_modules_to_check():
    assert {path.relative_to(ROOT).parts[0] for path in modules()} == set(FOLDERS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_module_breaks_the_arrows(folder):
    assert [problem for path in (ROOT / folder).rglob("*.py") for problem in wrong_arrows(path)] == []


def test_validate_uses_no_cost_model_and_no_solver():
    files = list((ROOT / "planner/validate").rglob("*.py"))
    used = {module for path in files for _, _, module in imports_of(path)}
    assert files
    assert not {m for m in used if "costs" in m or "solvers" in m or m.split(".")[0] in {"training", "serving"}}


@pytest.mark.parametrize(
    ("place", "line", "complaint"),
    [
        ("planner/api.py", "from models import model", "bare import"),
        ("models/graph.py", "from shardwright.topologies import Topology", "must not import"),
        ("solvers/mapping.py", "from shardwright.planner import api", "must not import"),
        ("planner/api.py", "from shardwright.planner.costs import x", "relatively"),
        ("planner/costs/compute.py", "from ..training import search", "is below"),
        ("topologies/graph.py", "from ..models import graph", "leaves"),
    ],
)
def test_a_wrong_arrow_is_caught(tmp_path, place, line, complaint):
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(line + "\n")
    assert any(complaint in problem for problem in wrong_arrows(path, tmp_path))
