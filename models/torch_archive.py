"""Reading tensors from a torch.save file without torch, and without running anything the file says."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError

MAX_BYTES = 2_000_000_000
STORAGES = {
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
}


def read_torch(path: Path, name: str) -> Any:
    """The object in a torch.save zip file, tensors as arrays. Raises ModelError on anything but plain data.

    Only tensors, their storages and ordered dictionaries are built; every other name in the pickle is refused.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
            raise ModelError(f"{name}: unpacks to more than {MAX_BYTES / 1e9:g} GB")
        entries = {entry.split("/", 1)[-1]: entry for entry in archive.namelist()}
        if "data.pkl" not in entries:
            raise ModelError(f"{name}: is no torch.save file (it has no data.pkl)")
        with archive.open(entries["data.pkl"]) as stream:
            reader = _Reader(stream, lambda key: archive.read(entries[f"data/{key}"]), name)
            try:
                return reader.load()
            except (pickle.UnpicklingError, KeyError, TypeError, AttributeError, IndexError) as error:
                raise ModelError(f"{name}: not a readable torch.save file ({error})") from error


class _Reader(pickle.Unpickler):
    def __init__(self, stream: Any, storage: Callable[[str], bytes], name: str) -> None:
        super().__init__(stream)
        self._storage = storage
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_tensor"):
            return _rebuild
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise ModelError(f"{self._name}: holds {module}.{name}, which is not plain data and not read")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        _kind, dtype, key, _place, count = pid
        return np.frombuffer(self._storage(str(key)), dtype=np.dtype(dtype), count=int(count))


def _rebuild(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    if any(value < 0 for value in (offset, *size, *stride)):
        raise pickle.UnpicklingError("negative tensor layout")
    last = offset + sum((extent - 1) * step for extent, step in zip(size, stride, strict=True))
    if 0 not in size and last >= len(storage):
        raise pickle.UnpicklingError("tensor larger than its storage")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps).copy()
