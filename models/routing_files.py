"""Reading routing statistics from files: npz, npy, JSON, JSONL and the dumps of SGLang's recorder."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from .errors import ModelError
from .routing import Routing, routing_from_counts, routing_from_ids, routing_from_transitions
from .torch_archive import read_torch

MAX_FILE_BYTES = 512_000_000
MAX_ARRAY_BYTES = 4_000_000_000
COUNT_KEYS = ("logical_count", "counts", "expert_counts")
ID_KEYS = ("top_ids", "topk_ids", "expert_ids", "experts", "routed_experts")
SUFFIXES = (".npz", ".npy", ".json", ".jsonl", ".pt")


def read_routing(path: str | Path, *, array: str | None = None, top: int | None = None) -> list[Routing]:
    """The workloads in a routing file, at least one.

    `.npz` and `.npy` hold counts (layers × experts), transitions (square last axes), or expert ids (tokens × layers ×
    k, whole numbers); an `.npz` with `T` and `w` holds transitions and loads, and every other array of it is a
    workload of its own unless `array` names one. JSON holds the same lists, or an object with `logical_count`, `T`
    and `w`, or `top_ids`. JSONL holds one token a line. `.pt` is what SGLang's expert distribution recorder dumps.
    `top` keeps the first ids of every token. Raises ModelError in one line when the file is refused.
    """
    path = Path(path)
    name = f"routing {path}"
    if path.suffix.lower() not in SUFFIXES:
        raise ModelError(f"{name}: the file name must end in one of {', '.join(SUFFIXES)}")
    _check_file(path, name)
    try:
        documents = _documents(path, name, array)
        routings = [_from_document(label, document, top) for label, document in documents]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{name}: cannot be read ({' '.join(str(error).split())})") from error
    return [replace(routing, name=routing.name.removeprefix("routing ")) for routing in routings]


def _check_file(path: Path, name: str) -> None:
    try:
        found = "" if path.is_file() else "a directory" if path.is_dir() else "nothing"
    except (OSError, ValueError):
        found = "a name that no file can have"
    if found:
        raise ModelError(f"{name}: expected a file but found {found}")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(f"{name}: larger than the {MAX_FILE_BYTES / 1e6:g} MB allowed")


def _documents(path: Path, name: str, array: str | None) -> list[tuple[str, Any]]:
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return _npz(path, name, array)
    if array is not None:
        raise ModelError(f"{name}: only an .npz file has named arrays, so leave out {array!r}")
    if suffix == ".npy":
        return [(name, _npy(path, name))]
    if suffix == ".pt":
        return [(name, read_torch(path, name))]
    text = path.read_bytes()
    if suffix == ".jsonl":
        lines = [line for line in text.splitlines() if line.strip()]
        return [(name, {"tokens": [_json(line, f"{name} line {at}") for at, line in enumerate(lines, 1)]})]
    return [(name, _json(text, name))]


def _json(text: bytes, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelError(f"{name}: not valid JSON ({error})") from error


def _npy(path: Path, name: str) -> Any:
    with path.open("rb") as stream:
        if stream.read(len(np.lib.format.MAGIC_PREFIX)) != np.lib.format.MAGIC_PREFIX:
            raise ModelError(f"{name}: cannot be read (not an array that NumPy saved)")
    return np.load(path, allow_pickle=False)


def _npz(path: Path, name: str, array: str | None) -> list[tuple[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > MAX_ARRAY_BYTES:
        raise ModelError(f"{name}: unpacks to {size / 1e9:.1f} GB, more than the {MAX_ARRAY_BYTES / 1e9:g} allowed")
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays.files)
        if array is not None:
            if array not in names:
                raise ModelError(f"{name}: has no array {array!r}, only {', '.join(names)}")
            return [(f"{name} [{array}]", arrays[array])]
        if "T" in names:
            return [(name, {"T": arrays["T"], **({"w": arrays["w"]} if "w" in names else {})})]
        chosen = [key for key in names if not key.endswith("_probs")]
        if not chosen:
            raise ModelError(f"{name}: holds no array")
        return [(f"{name} [{key}]" if len(chosen) > 1 else name, arrays[key]) for key in chosen]


def _from_document(name: str, document: Any, top: int | None) -> Routing:
    if isinstance(document, dict):
        return _from_object(name, document, top)
    return _from_array(name, _array(name, document), top)


def _from_object(name: str, document: dict[str, Any], top: int | None) -> Routing:
    if "tokens" in document and len(document) == 1:
        tokens = [_token(name, at, line) for at, line in enumerate(document["tokens"], 1)]
        return routing_from_ids(name, _array(name, tokens), top=top)
    if "T" in document:
        return routing_from_transitions(name, document["T"], document.get("w"))
    if "records" in document:
        return routing_from_ids(name, _recorded(name, document), top=top)
    for key in COUNT_KEYS:
        if key in document:
            return routing_from_counts(name, document[key])
    for key in ID_KEYS:
        if key in document:
            return routing_from_ids(name, _array(name, document[key]), top=top)
    wanted = ", ".join((*COUNT_KEYS[:1], "T", "records", *ID_KEYS[:1]))
    raise ModelError(f"{name}: needs one of the keys {wanted} but has {', '.join(sorted(document)[:6]) or 'none'}")


def _from_array(name: str, table: NDArray[np.generic], top: int | None) -> Routing:
    if table.ndim == 3 and table.shape[1] == table.shape[2] and table.shape[1] > 2:
        return routing_from_transitions(name, table)
    if table.ndim == 3 and table.dtype.kind in "iu":
        return routing_from_ids(name, table, top=top)
    return routing_from_counts(name, table)


def _token(name: str, at: int, line: Any) -> Any:
    if isinstance(line, dict):
        for key in ID_KEYS:
            if key in line:
                return line[key]
        raise ModelError(f"{name} line {at}: needs one of the keys {', '.join(ID_KEYS)}")
    return line


def _recorded(name: str, document: dict[str, Any]) -> NDArray[np.int64]:
    """Expert ids from SGLang's per-token records, whose ids name slots when a map of slots comes with them."""
    passes = []
    for at, record in enumerate(document["records"]):
        if not isinstance(record, dict) or "topk_ids_of_layer" not in record:
            raise ModelError(f"{name}: record {at} has no topk_ids_of_layer; dump with the per_token recorder mode")
        ids = _array(name, record["topk_ids_of_layer"])
        if ids.ndim != 3 or ids.dtype.kind not in "iu":
            raise ModelError(f"{name}: record {at} must have topk_ids_of_layer of layers × tokens × k whole numbers")
        passes.append(ids.astype(np.int64).transpose(1, 0, 2))
    if not passes:
        raise ModelError(f"{name}: has no records")
    ids = np.concatenate(passes)
    slots = document.get("last_physical_to_logical_map")
    if slots is None:
        return ids
    table = _array(name, slots).astype(np.int64)
    if table.ndim != 2 or len(table) != ids.shape[1] or ids.max() >= table.shape[1]:
        raise ModelError(f"{name}: last_physical_to_logical_map does not fit the records")
    named = table[np.arange(len(table))[None, :, None], np.maximum(ids, 0)]
    return np.where(ids >= 0, named, -1)


def _array(name: str, values: Any) -> NDArray[Any]:
    try:
        table = np.asarray(values)
    except ValueError as error:
        raise ModelError(f"{name}: rows must all have one length") from error
    if table.dtype.kind not in "iuf":
        raise ModelError(f"{name}: must hold numbers only")
    return table
