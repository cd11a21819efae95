"""Plan documents to and from JSON, and their JSON Schemas."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InputError, InvalidPlan
from ..files import parse_json, read_text
from .base import SCHEMA_VERSION, PlanBase

KINDS = {
    "training": "TrainingPlan",
    "serving": "ServingPlan",
    "experts": "ExpertPlan",
    "expert_phases": "ExpertPhasesPlan",
    "fleet": "FleetPlan",
}
MAX_PLAN_BYTES = 256_000_000
_SPREAD_NUMBERS = re.compile(r"\[\n\s*((?:-?[\d.eE+-]+,\n\s*)*-?[\d.eE+-]+)\n\s*\]")


def plan_type(kind: str) -> type[PlanBase]:
    """The record of one kind of plan. Raises InvalidPlan when there is no such kind."""
    if kind not in KINDS:
        raise InvalidPlan(f"plan: kind must be one of {', '.join(KINDS)} but got {kind!r}")
    found: type[PlanBase] = getattr(import_module(f"..{kind}", __name__), KINDS[kind])
    return found


def dump(plan: PlanBase) -> str:
    """The plan as indented JSON, lists of numbers on one line; equal plans give equal bytes."""
    text = msgspec.json.format(msgspec.json.encode(plan, order="deterministic"), indent=2).decode()
    return _SPREAD_NUMBERS.sub(lambda match: "[" + re.sub(r",\n\s*", ", ", match[1]) + "]", text) + "\n"


def parse(text: str, where: str) -> PlanBase:
    """The plan in a JSON text. Raises InvalidPlan naming the field when it is not one."""
    try:
        document = parse_json(text, where)
    except InputError as error:
        raise InvalidPlan(str(error)) from error
    if not isinstance(document, dict):
        raise InvalidPlan(f"{where}: a plan is a JSON object")
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InvalidPlan(f"{where}: schema_version must be {SCHEMA_VERSION} but got {version!r}")
    try:
        return msgspec.convert(document, plan_type(str(document.get("kind"))))
    except (msgspec.ValidationError, InputError) as error:
        raise InvalidPlan(f"{where}: {error}") from error


def load(path: str | Path) -> PlanBase:
    """The plan in a file. Raises InputError when the file cannot be read and InvalidPlan when it holds no plan."""
    return parse(read_text(path, "plan", MAX_PLAN_BYTES), f"plan {path}")


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of one kind of plan."""
    return msgspec.json.schema(plan_type(kind))
