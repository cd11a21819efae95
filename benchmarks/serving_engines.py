"""Which engine, and which release of it, a source means."""

from __future__ import annotations

import re

ENGINES = (
    (r"sglang", "sglang"),
    (r"tensorrt|trt|nim", "trtllm"),
    (r"turbomind|lmdeploy", "turbomind"),
    (r"neuron", "neuronx"),
    (r"vllm", "vllm"),
)
# Engine releases by the month they came out in, newest first.
RELEASES = {
    "vllm": (("2026-03", "0.18"), ("2026-01", "0.14"), ("2025-09", "0.11"), ("2024-07", "0.6"), ("2023-01", "0.2")),
    "trtllm": (
        ("2026-01", "1.2"),
        ("2025-10", "1.1"),
        ("2025-08", "1.0"),
        ("2024-12", "0.17"),
        ("2024-05", "0.11"),
        ("2023-01", "0.9"),
    ),
    "sglang": (("2025-09", "0.5"),),
}
# The TensorRT-LLM that a Dynamo release ships (NVIDIA Dynamo support matrix): disaggregated InferenceX runs state the
# release of Dynamo.
DYNAMO_RELEASES = {
    "0.9.0": "1.3.0",
    "0.8.1": "1.2.0",
    "0.8.0": "1.2.0",
    "0.7.1": "1.2.0",
    "0.7.0": "1.2.0",
    "0.6.1": "1.1.0",
    "0.6.0": "1.1.0",
}


def engine_of(name: str, version: str, notes: str, dynamo: bool = False) -> tuple[str, str]:
    """The engine and its version; runs that state a date only have the release of that month.

    `dynamo`: the version of a disaggregated TensorRT-LLM may be that of Dynamo.
    """
    engine = next((each for pattern, each in ENGINES if re.search(pattern, name, re.I)), "vllm")
    if dynamo and engine == "trtllm":
        version = DYNAMO_RELEASES.get(version.split(".post")[0], version)
    if re.match(r"v?\d+\.\d", version) and not re.match(r"20\d\d", version):
        return engine, ".".join(re.findall(r"\d+", version)[:3])
    dated = re.search(r"(20\d\d-\d\d)", version) or re.search(r"measured (20\d\d-\d\d)", notes)
    month = dated[1] if dated else ""
    releases = RELEASES.get(engine, ())
    return engine, next((release for first, release in releases if month and month >= first), "")
