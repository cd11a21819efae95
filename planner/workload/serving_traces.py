"""Readers of request traces: Azure CSV, Mooncake JSONL, APEX JSONL, and an hourly schedule of a day."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import InputError
from ..files import read_text
from .serving import MAX_TOKENS, Trace

MAX_TRACE_BYTES = 1_000_000_000
_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_MOONCAKE_BLOCK = 512  # tokens per hash id of the published traces (Mooncake, FAST'25, appendix)

_Row = tuple[float, int, int, list[Any]]


def read_trace(path: str | Path) -> Trace:
    """The trace in a file; the format follows from its columns or keys, arrivals count from the first request.

    Azure CSV: TIMESTAMP, ContextTokens, GeneratedTokens. Mooncake JSONL: timestamp (ms), input_length, output_length,
    hash_ids, from which prefix-cache hits follow for a cache that forgets nothing. APEX JSONL: StartTimeOffset (ns),
    ContextTokens, GeneratedTokens. Raises InputError naming the line when a token count is missing, negative or zero,
    when time goes backwards, or when there is no request.
    """
    text = read_text(path, "trace", MAX_TRACE_BYTES)
    where = f"trace {path}"
    if not text.strip():
        raise InputError(f"{where}: is empty, holds no request")
    first = text.lstrip()[:1]
    rows = list(_json_lines(text, where) if first == "{" else _azure(text, where))
    if not rows:
        raise InputError(f"{where}: holds no request")
    arrival = np.array([row[0] for row in rows])
    backwards = np.flatnonzero(np.diff(arrival) < 0)
    if backwards.size:
        raise InputError(
            f"{where}: time goes backwards at request {int(backwards[0]) + 2}; requests must be in order of arrival"
        )
    prompt = np.array([row[1] for row in rows], dtype=np.int64)
    return Trace(
        arrival_s=arrival - arrival[0],
        prompt_tokens=prompt,
        output_tokens=np.array([row[2] for row in rows], dtype=np.int64),
        cached_tokens=np.minimum(_prefix_hits(rows), prompt - 1),
        name=Path(path).name,
    )


def check_context(trace: Trace, most: int | None, model: str) -> None:
    """Raise InputError for the first request that is longer than the model's context."""
    if most is None:
        return
    total = trace.prompt_tokens + trace.output_tokens
    over = np.flatnonzero(total > most)
    if over.size:
        at = int(over[0])
        raise InputError(
            f"trace {trace.name or 'load'}: request {at + 1} has {trace.prompt_tokens[at]} prompt and "
            f"{trace.output_tokens[at]} output tokens, more than the {most} of the context of {model}"
        )


def read_schedule(path: str | Path) -> list[tuple[str, float]]:
    """Hours of a day (or more) and their mean request rates: CSV whose first column names the hour.

    The rate column is `rate_per_s`, `mean_rps` or `rps`; other columns are ignored. Raises InputError naming the line.
    """
    text = read_text(path, "schedule", MAX_TRACE_BYTES)
    lines = _csv_rows(text, f"schedule {path}")
    names = next(lines, (1, []))[1]
    column = next((name for name in ("rate_per_s", "mean_rps", "rps") if name in names), None)
    if column is None:
        raise InputError(f"schedule {path}: needs a column rate_per_s, mean_rps or rps but has {', '.join(names)}")
    hours: list[tuple[str, float]] = []
    at = names.index(column)
    for line, row in lines:
        try:
            rate = float(row[at])
        except (IndexError, ValueError):
            rate = -1.0
        if not 0 <= rate < 1e9:
            raise InputError(f"schedule {path}, line {line}: {column} must be a number of at least 0")
        hours.append((row[0], rate))
    if not hours:
        raise InputError(f"schedule {path}: holds no hour")
    return hours


def _azure(text: str, where: str) -> Iterator[_Row]:
    lines = _csv_rows(text, where)
    header = [name.strip() for name in next(lines, (1, []))[1]]
    try:
        at, prompt, output = (header.index(name) for name in _AZURE)
    except ValueError as error:
        raise InputError(f"{where}: needs the columns {', '.join(_AZURE)}, or JSON lines") from error
    for line, row in lines:
        place = f"{where}, line {line}"
        if len(row) < len(header):
            raise InputError(f"{place}: has {len(row)} of {len(header)} columns")
        yield (
            _instant(row[at], place),
            _tokens(row[prompt], "ContextTokens", place),
            _tokens(row[output], "GeneratedTokens", place),
            [],
        )


def _csv_rows(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV text that are not empty, each with its line. Raises InputError naming the line."""
    reader = csv.reader(text.splitlines())
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{where}, line {reader.line_num}: not CSV ({error})") from error


def _json_lines(text: str, where: str) -> Iterator[_Row]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    for line, content in enumerate(text.splitlines(), start=1):
        if not content.strip():
            continue
        place = f"{where}, line {line}"
        try:
            row = decoder.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            raise InputError(f"{place}: not a JSON object ({error})") from error
        yield _mooncake(row, place) if "input_length" in row or "timestamp" in row else _apex(row, place)


def _mooncake(row: Mapping[str, Any], place: str) -> _Row:
    hashes = row.get("hash_ids") or []
    if not isinstance(hashes, list) or any(isinstance(block, list | dict) for block in hashes):
        raise InputError(f"{place}: hash_ids must be a list of block numbers")
    return (
        _number(row.get("timestamp"), "timestamp", place) / 1e3,
        _tokens(row.get("input_length"), "input_length", place),
        _tokens(row.get("output_length"), "output_length", place),
        hashes,
    )


def _apex(row: Mapping[str, Any], place: str) -> _Row:
    return (
        _number(row.get("StartTimeOffset"), "StartTimeOffset", place) / 1e9,
        _tokens(row.get("ContextTokens"), "ContextTokens", place),
        _tokens(row.get("GeneratedTokens"), "GeneratedTokens", place),
        [],
    )


def _prefix_hits(rows: list[_Row]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of each prompt whose leading blocks an earlier prompt already computed."""
    hits = np.zeros(len(rows), dtype=np.int64)
    if not any(row[3] for row in rows):
        return hits
    seen: set[Any] = set()
    for place, row in enumerate(rows):
        known = 0
        for block in row[3]:
            if block not in seen:
                break
            known += 1
        seen.update(row[3])
        hits[place] = known * _MOONCAKE_BLOCK
    return hits


def _instant(text: str, place: str) -> float:
    """Seconds of a timestamp; Python reads six digits of a second, the traces have seven."""
    whole, dot, fraction = text.strip().partition(".")
    digits = ""
    for character in fraction:
        if not character.isdigit():
            break
        digits += character
    try:
        start = datetime.fromisoformat(whole + fraction[len(digits) :])
        return (start - datetime(2000, 1, 1, tzinfo=start.tzinfo)).total_seconds() + float(f"0{dot}{digits or 0}")
    except ValueError as error:
        raise InputError(f"{place}: TIMESTAMP {text!r} is not a time such as 2023-11-16 18:15:46.6805900") from error


def _number(value: Any, name: str, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{place}: {name} must be a number but got {value!r}")
    if not 0 <= value < 1e18:
        raise InputError(f"{place}: {name} must be at least 0 but got {value!r}")
    return float(value)


def _tokens(value: Any, name: str, place: str) -> int:
    if value is None or value == "":
        raise InputError(f"{place}: {name} is missing")
    try:
        count = int(value) if isinstance(value, str) else value
    except ValueError:
        count = None
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_TOKENS:
        raise InputError(f"{place}: {name} must be a whole number from 1 to {MAX_TOKENS} but got {value!r}")
    return count
