"""What can go wrong, and the exit code that says so.

ShardwrightError
├── InputError      2  a file, option or value is wrong: what, where, what would be right
├── Infeasible      3  no plan exists: the binding constraint and the nearest feasible change
├── LimitReached    4  stopped at a limit before any plan was found
└── InvalidPlan     5  the plan given does not hold
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class ShardwrightError(Exception):
    """Base of everything Shardwright raises on purpose; its text is one line fit for a user."""

    exit_code = 1


class InputError(ShardwrightError):
    """A file, option or value given by the user is wrong."""

    exit_code = 2


class Infeasible(ShardwrightError):  # noqa: N818
    """It is proven that no plan meets the constraints."""

    exit_code = 3


class LimitReached(ShardwrightError):  # noqa: N818
    """The search stopped at a limit and has no plan to show."""

    exit_code = 4


class InvalidPlan(ShardwrightError):  # noqa: N818
    """A plan given for validation or export does not hold."""

    exit_code = 5


@contextmanager
def input_errors() -> Iterator[None]:
    """Re-raise what the model and topology readers refuse as InputError, message unchanged."""
    try:
        yield
    except ValueError as error:
        from shardwright.models import ModelError
        from shardwright.topologies import TopologyError

        if not isinstance(error, (ModelError, TopologyError)):
            raise
        raise InputError(str(error)) from error
