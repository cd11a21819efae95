"""What every plan carries, whatever it plans."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SCHEMA_VERSION = 1


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=False):
    pass


class Input(_Record, frozen=True):
    """One input: its role, where it came from, the SHA-256 of its canonical JSON, and the document itself.

    `source` is a file path or a catalog name; `document` makes the plan checkable without the file.
    """

    role: Literal["model", "topology", "job", "load", "offers", "routing", "measured", "plan"]
    source: str
    sha256: str
    document: Any = None


class Beyond(_Record, frozen=True):
    """What is proven of a larger space, which `covers` names: what nothing in it goes beyond, and how far that is."""

    covers: str
    bound: float
    gap: float


class Optimality(_Record, frozen=True):
    """What was minimized or maximized, how good the plan is and how good any plan could be.

    `bound` holds for all that `covers` names and was tried, beside whatever else the plan took up; `beyond` for more.
    Wall time is printed and not stored: the same inputs and seed give the same bytes. `work` counts solver steps.
    """

    objective: str
    sense: Literal["min", "max"]
    value: float
    bound: float
    gap: float
    status: Literal["optimal", "feasible"]
    candidates: int = 0
    feasible: int = 0
    work: int = 0
    covers: str = ""
    beyond: Beyond | None = None


class Term(_Record, frozen=True):
    """One number of a breakdown and the sentence that explains it."""

    name: str
    value: float
    unit: str
    why: str = ""


class Alternative(_Record, frozen=True):
    """A plan that was considered and lost: what it is, its value, and why it lost."""

    label: str
    value: float
    why: str


class Provenance(_Record, frozen=True):
    """What made the plan."""

    tool_version: str
    seed: int = 0
    solver: str = ""
    libraries: dict[str, str] = {}
    coefficients: dict[str, str] = {}


class PlanBase(_Record, frozen=True, kw_only=True, tag_field="kind"):
    """Fields common to all four kinds of plan."""

    inputs: tuple[Input, ...]
    optimality: Optimality
    assumptions: tuple[str, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    provenance: Provenance
    schema_version: int = SCHEMA_VERSION
