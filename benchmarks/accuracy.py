"""Predictions against published measurements.

    python -m benchmarks.accuracy training FILE.csv [--json]
    python -m benchmarks.accuracy memory [FILE.csv ...] [--json]
    python -m benchmarks.accuracy serving FILE.csv [--json]

Each subcommand is a module `benchmarks.accuracy_NAME` with `main(arguments) -> exit code`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

SUBCOMMANDS = ("training", "memory", "serving")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the subcommand named first; exit code 2 with one line when there is none of that name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = [name for name in SUBCOMMANDS if importlib.util.find_spec(f"benchmarks.accuracy_{name}")]
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if given else 2
    if given[0] not in known:
        print(f"error: the subcommand must be one of {', '.join(known)} but got {given[0]!r}", file=sys.stderr)
        return 2
    result: int = importlib.import_module(f"benchmarks.accuracy_{given[0]}").main(given[1:])
    return result


if __name__ == "__main__":
    sys.exit(main())
