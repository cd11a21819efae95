"""The catalog: published models by name, kept as the fields of their configurations and read when asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from ..config import read_config
from ..errors import ModelError
from ..graph import ModelGraph


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model: the fields of its configuration that are read, and where they are published."""

    source: str
    config: dict[str, object]


def list_models() -> tuple[str, ...]:
    """The catalog's names, sorted."""
    return tuple(sorted(_entries()))


def catalog_entry(name: str) -> Entry:
    """The entry of that name; case, hyphens and underscores do not matter. Raises ModelError with the nearest names."""
    names = {_key(known): known for known in _entries()}
    key = _key(name)
    if key not in names:
        from difflib import get_close_matches

        near = [names[match] for match in get_close_matches(key[:64], names, n=3)]
        hint = f"nearest known: {', '.join(near)}" if near else "`shardwright models list` prints them"
        raise ModelError(f"no model named {name[:64]!r} in the catalog: {hint}")
    return _entries()[names[key]]


@cache
def _graph(key: str) -> ModelGraph:
    names = {_key(known): known for known in _entries()}
    return read_config(catalog_entry(key).config, names[key])


def model(name: str) -> ModelGraph:
    """The graph of a catalog model. Raises ModelError when there is none of that name."""
    catalog_entry(name)
    return _graph(_key(name))


def _key(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


@cache
def _entries() -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for path in sorted(Path(__file__).parent.glob("*.json")):
        entries |= msgspec.json.decode(path.read_bytes(), type=dict[str, Entry])
    return entries
