"""Fitted figures of serving: kernels by accelerator architecture, engines by generation.

They live in coefficients.json beside this file with their provenance. What is missing falls back to the nearest
relative and says so, so that a plan can list it under its assumptions.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from ...errors import InputError

Policy = Literal["mixed", "prefill-first"]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Kernels(_Record, frozen=True):
    """How close kernels of one architecture come to its peaks.

    A product takes `gemm_start_s` + √((flops / peak·compute)² + (bytes / bandwidth·memory)²); attention and experts
    have the same form with their own figures. `expert_rows` is the number of rows by which each busy expert's part is
    padded on average. `small_reduce_s` and `reduce_rate` are the start and the share of the link of an engine's own
    all-reduce kernel. `library_reduce` multiplies the library's collectives: hosts of PCIe devices differ in how well
    peers reach each other. Fractions are of dense peak and nominal bandwidth.
    """

    compute: dict[str, float]
    gemm_start_s: dict[str, float]
    memory: float
    prefill_attention: float
    decode_attention: float
    decode_attention_fp8: float
    decode_attention_compute: float
    attention_start_s: float
    expert_compute: dict[str, float]
    expert_memory: float
    expert_start_s: dict[str, float]
    expert_rows: float
    kernel_s: float
    small_reduce_s: float
    library_reduce: float = 1.0
    reduce_rate: float = 0.7
    source: str = ""


class Engine(_Record, frozen=True):
    """What one generation of a serving engine adds to its kernels, and how it schedules.

    Host time: `step_s` per step, `sequence_s` per running sequence, `token_s` per prompt token, `prefill_s` more for a
    step that carries a prompt, `prompt_s` for each prompt it carries (admission, block tables, detokenizer),
    `request_s` more for every TTFT (HTTP, tokenizer, first detokenization), `stage_s` per micro-batch of a pipeline
    (its own step, and passing on what it sampled), `hand_over_s` per request that goes from a prefill to a decode
    worker, beside the transfer (routing, rendezvous, waiting for the next poll). `overlap`: the host prepares a step
    while the device runs the one before. `launch_s` is the host's time to launch one kernel without a graph, in
    prefill, and in decode where `graphs` is false: short kernels wait for their launch, long ones do not, together
    √(kernels² + launches²). Factors on kernel time beyond the starts: `gemm`, `attention` (prefill), `read` (decode
    attention), `grouped` (its products where query heads share KV heads: old kernels compute them without tensor
    cores), `expert` and `expert_work` (reading and computing experts), `reduce`; `start` on the starts. `expert_floor`
    is the share of a rank's experts that a step reads however few tokens it has (grouped kernels over padded blocks).
    `imbalance` is the load of the fullest expert rank over the mean, `reach` the ranks a token is dispatched to on a
    stage of `reach_ranks`; `windows` says whether sliding windows are made use of; `context_bytes` is what the process
    itself takes of a device. `first` and `last` bound the versions it stands for.
    """

    engine: str
    generation: str
    first: str = ""
    last: str = ""
    policy: Policy = "mixed"
    token_budget: int = 8192
    max_sequences: int = 1024
    whole_prompts: bool = False
    reserve_output: bool = False
    memory_fraction: float = 0.9
    step_s: float = 0.0
    sequence_s: float = 0.0
    token_s: float = 0.0
    prefill_s: float = 0.0
    prompt_s: float = 0.0
    launch_s: float = 0.0
    graphs: bool = True
    overlap: bool = False
    request_s: float = 0.0
    stage_s: float = 0.0
    hand_over_s: float = 1e-3
    start: float = 1.0
    gemm: float = 1.0
    attention: float = 1.0
    read: float = 1.0
    grouped: float = 1.0
    expert: float = 1.0
    expert_work: float = 1.0
    reduce: float = 1.0
    expert_floor: float = 0.0
    imbalance: float = 1.0
    reach: float = 0.0
    reach_ranks: int = 0
    windows: bool = True
    context_bytes: float = 2e9
    source: str = ""


class _File(_Record, frozen=True):
    version: str
    provenance: str
    hosts: dict[str, float]
    architectures: dict[str, Kernels]
    relatives: dict[str, str]
    engines: tuple[Engine, ...]


@functools.cache
def _file() -> _File:
    return msgspec.json.decode(Path(__file__).with_name("coefficients.json").read_bytes(), type=_File)


def coefficients_version() -> str:
    """What a plan records of the figures it used."""
    return _file().version


def kernels(architecture: str, accelerator: str = "") -> tuple[Kernels, tuple[str, ...]]:
    """The figures of an accelerator, else of its architecture, and what had to be assumed to have them."""
    file = _file()
    for name in (accelerator, architecture):
        if name in file.architectures:
            return file.architectures[name], ()
    relative = file.relatives.get(accelerator) or file.relatives.get(architecture, file.relatives["*"])
    note = f"no serving kernels were fitted on {architecture}: those of {relative} are used, as fractions of its peaks"
    return file.architectures[relative], (note,)


def host_factor(accelerator: str) -> float:
    """Host times relative to the hosts of H100s, by the start of the accelerator's name (Grace, older x86: slower)."""
    return next((factor for name, factor in _file().hosts.items() if accelerator.startswith(name)), 1.0)


ENGINES = ("vllm", "sglang", "trtllm")


def engine(name: str, version: str = "") -> tuple[Engine, tuple[str, ...]]:
    """The generation of an engine that a version belongs to (its newest without one), and what was assumed.

    Raises InputError for an engine that is not known.
    """
    return generation(_file().engines, name, version)


def generation(engines: Sequence[Engine], name: str, version: str) -> tuple[Engine, tuple[str, ...]]:
    """The same among given generations, oldest first."""
    known = [each for each in engines if each.engine == name]
    if not known:
        names = ", ".join(sorted({each.engine for each in engines}))
        raise InputError(f"engine must be one of {names} but got {name!r}")
    if not version:
        return known[-1], (f"engine {name}: the generation {known[-1].generation} is assumed",)
    asked = _order(version)
    for each in known:
        if (not each.first or _order(each.first) <= asked) and (not each.last or asked <= _order(each.last)):
            return each, ()
    return known[-1], (f"engine {name} {version}: no fitted generation covers it, {known[-1].generation} is used",)


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])
