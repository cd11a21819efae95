"""Where the reference measurements lie on a developer's machine; a user's clone has none."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def shared_file(name: str) -> Path:
    """The reference file, or skip the test saying that it is not here."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"reference data {name} is not on this machine")
    return path
