"""Every single edit of a plan's numbers and words, and which of them a validator lets pass."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

from shardwright.planner import InvalidPlan, dump_plan
from shardwright.planner.plan.fleet import FleetPlan
from shardwright.planner.plan.io import parse
from shardwright.planner.validate import validate_plan


def leaves(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every number, word and null of a document with the way to it."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def edited(value: Any) -> list[Any]:
    """Other values of about the same kind: a little and much more and less."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [value * 1.02 + 0.01, value * 0.98 - 0.01]
    return [value + "x"] if isinstance(value, str) else [1]


def survivors(plan: FleetPlan) -> set[str]:
    """Fields, without their indices, that can be changed in some way while the plan still validates.

    Of the documents in `inputs`, which are hashed whole, the first number or word of each is changed.
    """
    original = json.loads(dump_plan(plan))
    found, documents = set(), set()
    for path, value in leaves(original):
        if path[:1] == ("inputs",) and path[2] == "document":
            if path[1] in documents:
                continue
            documents.add(path[1])
        for other in edited(value):
            document = copy.deepcopy(original)
            inside = document
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = other
            try:
                problems = validate_plan(parse(json.dumps(document), "plan"))
            except InvalidPlan:
                continue
            if not problems:
                found.add(re.sub(r"\.\d+", "", ".".join(map(str, path))))
    return found
