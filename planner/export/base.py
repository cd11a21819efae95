"""What an exporter is given and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shardwright.models import ModelGraph
    from shardwright.topologies import Topology

    from ..plan.base import PlanBase


@dataclass(frozen=True)
class Context:
    """A validated plan with its model and topology; either is None when that kind of plan has none."""

    plan: PlanBase
    model: ModelGraph | None
    topology: Topology | None


@dataclass(frozen=True)
class Export:
    """A plan in a launcher's own form: `text` is what is printed, `files` is the folder a user needs.

    `cannot_express` lists, one sentence each, what the launcher has no word for and the user must arrange.
    """

    text: str
    files: dict[str, str] = field(default_factory=dict)
    cannot_express: tuple[str, ...] = ()


class Exporter(Protocol):
    """One launcher. Raises InputError for a plan that the launcher cannot run; it never drops a part of it."""

    name: str
    kinds: tuple[str, ...]
    validated_with: str

    def __call__(self, context: Context) -> Export:
        """The plan in the launcher's form."""
