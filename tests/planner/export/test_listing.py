"""The page of launchers names every exporter."""

from __future__ import annotations

import re
from pathlib import Path

from shardwright.planner import list_exporters

PAGE = Path(__file__).resolve().parents[3] / "docs" / "launchers.md"


def test_the_page_of_launchers_lists_every_exporter_and_no_other():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])]
    assert sorted(named) == list(list_exporters())
