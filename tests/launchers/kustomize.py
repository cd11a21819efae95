"""Kustomize's own build of a folder, by the shared library of the pykustomize wheel."""

from __future__ import annotations

import ctypes
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml


@cache
def _library() -> ctypes.CDLL:
    found = list((Path(sys.prefix) / "kustomize" / "pykustomize").glob("_lib/*/libpykustomize.so"))
    if not found:
        pytest.skip("the launcher checks run in `make test-launchers`; Kustomize's library is for Linux on x86-64")
    library = ctypes.CDLL(str(found[0]))
    library.pykustomize_build.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p))
    library.pykustomize_last_error.restype = ctypes.c_char_p
    return library


def build(folder: Path) -> list[dict[str, Any]]:
    """The objects that `kustomize build FOLDER` prints. Raises ValueError with what it says where it refuses."""
    library, result = _library(), ctypes.c_char_p()
    options = json.dumps({"load_restrictions": 0, "reorder": "unspecified"}).encode()
    if library.pykustomize_build(str(folder).encode(), options, ctypes.byref(result)):
        raise ValueError((library.pykustomize_last_error() or b"").decode())
    assert result.value is not None
    return [each for each in yaml.safe_load_all(result.value.decode()) if each]
