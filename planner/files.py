"""Reading untrusted documents and writing whole files, nothing half-done."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from .errors import InputError

MAX_INPUT_BYTES = 8_000_000
MAX_DEPTH = 64
_YAML_TEXT = "tag:yaml.org,2002:str"


def read_text(path: str | Path, what: str, max_bytes: int = MAX_INPUT_BYTES) -> str:
    """Text of a UTF-8 file no larger than `max_bytes`. Raises InputError when it cannot be had."""
    path = Path(path)
    try:
        if not path.is_file():
            found = "a directory" if path.is_dir() else "nothing" if not path.exists() else "no regular file"
            raise InputError(f"{what} {path}: expected a file but found {found}")
        with path.open("rb") as stream:
            data = stream.read(max_bytes + 1)
    except OSError as error:
        raise InputError(f"{what} {path}: cannot be read ({error.strerror})") from error
    if len(data) > max_bytes:
        raise InputError(f"{what} {path}: larger than the {max_bytes / 1e6:g} MB allowed")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {path}: not UTF-8 text at byte {error.start}") from error


def read_document(path: str | Path, what: str, max_bytes: int = MAX_INPUT_BYTES) -> object:
    """The JSON or YAML document in a file, told apart by its suffix.

    `what` names the document in messages ("model config", "topology"). Raises InputError on a missing, large, deep
    or malformed file, on YAML aliases and tags, on a key that an object has twice, and on numbers that are not finite.
    """
    text = read_text(path, what, max_bytes)
    where = f"{what} {path}"
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return parse_yaml(text, where)
    document = parse_json(text, where)
    json.loads(text, object_pairs_hook=lambda pairs: _named_once((name for name, _ in pairs), where))
    return document


def parse_json(text: str, where: str) -> object:
    """A JSON document of limited depth. Raises InputError naming the place."""
    if _json_depth_exceeds(text, MAX_DEPTH):
        raise InputError(f"{where}: nested deeper than {MAX_DEPTH} levels")
    try:
        document: object = msgspec.json.decode(text.encode())
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({error})") from error
    _refuse_non_finite(document, where)
    return document


def parse_yaml(text: str, where: str) -> object:
    """A YAML document of limited depth, without aliases or tags. Raises InputError naming the place."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise InputError(f"{where}: YAML aliases are not accepted (line {_line(event)})")
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MAX_DEPTH:
                    raise InputError(f"{where}: nested deeper than {MAX_DEPTH} levels")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        reader = loader(text)
        node = reader.get_single_node()
        _check_keys(node, where)
        document: object = None if node is None else reader.construct_document(node)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{where}: not valid YAML ({_one_line(error)})") from error
    _refuse_non_finite(document, where)
    return document


def _check_keys(node: object, where: str) -> None:
    """Raise InputError for a key that is no text, or that a mapping has twice: one of its values would be lost."""
    stack = [node]
    while stack:
        value = getattr(stack.pop(), "value", None)
        if not isinstance(value, list):
            continue
        keys = [item[0] for item in value if isinstance(item, tuple)]
        for key in keys:
            if key.tag != _YAML_TEXT:
                raise InputError(f"{where}: keys must be text but line {_line(key)} has one that is none; quote it")
        _named_once((key.value for key in keys), where)
        stack.extend(child for item in value for child in (item if isinstance(item, tuple) else (item,)))


def _named_once(names: Iterable[str], where: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where}: the key {name!r} stands twice in one object; keep one of the two")
        seen.add(name)


def sha256_of_file(path: str) -> str:
    """Hash of a file's bytes as they lie there."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def sha256_of(document: object) -> str:
    """SHA-256 of the canonical JSON of a decoded document: the same for the same content, whatever its layout."""
    return hashlib.sha256(msgspec.json.encode(document, order="deterministic")).hexdigest()


def is_file(path: str | Path) -> bool:
    """Whether a file is there; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: str | Path) -> bool:
    """Whether a folder is there; a name that no folder can have is none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def check_output(path: str | Path) -> None:
    """Refuse a place that `write_atomic` cannot write to, so that no search is spent on it. Raises InputError."""
    if not str(path):
        raise InputError("output: the name of the file is empty")
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"output {path}: is a directory, a file name is needed")
        if not path.parent.is_dir():
            raise InputError(f"output {path}: cannot be written (there is no folder {path.parent})")
    except OSError as error:
        raise InputError(f"output {path}: cannot be written ({error.strerror})") from error
    if not os.access(path if _is_special(path) else path.parent, os.W_OK):
        raise InputError(f"output {path}: cannot be written (permission denied)")


def write_atomic(path: str | Path, text: str) -> None:
    """Write a whole file or nothing: an existing file is replaced only by a complete one.

    A device or pipe, such as /dev/null, is written to and never replaced. Raises InputError when the place cannot be
    written.
    """
    path = Path(path)
    temporary = None
    check_output(path)
    try:
        if _is_special(path):
            path.write_text(text, encoding="utf-8")
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"output {path}: cannot be written ({error.strerror})") from error


def write_folder(folder: str | Path, files: dict[str, str]) -> None:
    """Write several files into a folder, made if need be; each is whole or absent. Raises InputError."""
    if not str(folder):
        raise InputError("output: the name of the folder is empty")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {folder}: cannot be made a folder ({error.strerror})") from error
    for name, text in files.items():
        write_atomic(folder / name, text)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def _json_depth_exceeds(text: str, limit: int) -> bool:
    if text.count("[") + text.count("{") <= limit:
        return False
    depth = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                in_string = False
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            if depth > limit:
                return True
        elif char in "]}":
            depth -= 1
    return False


def _refuse_non_finite(document: object, where: str) -> None:
    for path, value in _leaves(document):
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: {path} must be a finite number but got {value}")


def _leaves(document: object) -> Iterator[tuple[str, object]]:
    stack: list[tuple[str, object]] = [("$", document)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, dict):
            stack.extend((f"{path}.{key}", child) for key, child in value.items())
        elif isinstance(value, list):
            stack.extend((f"{path}[{index}]", child) for index, child in enumerate(value))
        else:
            yield path, value


def _line(event: object) -> int:
    """Line of a YAML event, counted from 1; 0 when the parser kept none."""
    mark = getattr(event, "start_mark", None)
    return 0 if mark is None else int(mark.line) + 1


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
