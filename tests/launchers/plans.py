"""Small plans whose order of ranks is not the identity, and what a started rank says of itself."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from shardwright.planner import Strategy, TrainingJob, estimate_training, export_plan
from shardwright.planner.plan.training import TrainingPlan
from shardwright.topologies import parse_topology
from tests.topologies.instances import changed

JOB = TrainingJob(gbs=48, sequence_length=2048)

# A rank's place: its host (set by whoever plays the host) and the device it sees as its own.
RECORDER = """\
import json, os
seen = [name for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES") if name in os.environ][0]
device = int(os.environ[seen].split(",")[int(os.environ["LOCAL_RANK"])])
print(json.dumps({"rank": int(os.environ["RANK"]), "host": os.environ["PLACE"], "device": device,
                  "world": int(os.environ["WORLD_SIZE"])}), flush=True)
"""


def two_hosts(
    strategy: Strategy, devices: int = 2, job: TrainingJob = JOB, model: str = "llama-3.1-8b"
) -> TrainingPlan:
    """The strategy over two hosts of so many devices, `n0` and `n1`, in the topology's own order."""
    document = changed(nodes__0__devices=devices, nodes__0__nics__count=devices) | {"node_names": ["n0", "n1"]}
    return estimate_training(model, parse_topology(document), job, strategy)


def reordered(plan: TrainingPlan) -> TrainingPlan:
    """The second host first, and the devices of that host from last to first."""
    half = len(plan.rank_to_device) // 2
    devices = plan.rank_to_device
    return msgspec.structs.replace(plan, rank_to_device=devices[half:][::-1] + devices[:half])


def hosts_swapped(plan: TrainingPlan) -> TrainingPlan:
    """The second host first, the devices of each in their own order."""
    half = len(plan.rank_to_device) // 2
    devices = plan.rank_to_device
    return msgspec.structs.replace(plan, rank_to_device=devices[half:] + devices[:half])


def alternating(plan: TrainingPlan) -> TrainingPlan:
    """Every rank on the other host than the one before it, the second host first."""
    half = len(plan.rank_to_device) // 2
    devices = plan.rank_to_device
    pairs = zip(devices[half:], devices[:half], strict=True)
    return msgspec.structs.replace(plan, rank_to_device=tuple(device for pair in pairs for device in pair))


def places(plan: TrainingPlan) -> list[tuple[str, int]]:
    """For every rank of the plan, the host and the device's number on it."""
    half = len(plan.rank_to_device) // 2
    return [(f"n{device // half}", device % half) for device in plan.rank_to_device]


def folder(plan: TrainingPlan, launcher: str, path: Path) -> Path:
    """The exported folder, with a program that records where every rank is."""
    for name, text in export_plan(plan, launcher).files.items():
        (path / name).write_text(text)
    (path / "recorder.py").write_text(RECORDER)
    return path


def recorded(output: str) -> list[tuple[str, int]]:
    """Host and device of every rank, in rank order, out of what the ranks printed."""
    lines = [json.loads(found) for found in re.findall(r'\{"rank".*?\}', output)]
    assert {line["world"] for line in lines} == {len(lines)}, output
    assert sorted(line["rank"] for line in lines) == list(range(len(lines))), output
    return [(line["host"], line["device"]) for line in sorted(lines, key=lambda line: line["rank"])]


def here(**more: str) -> dict[str, str]:
    """The environment with this interpreter's commands first and one thread a process."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **more}


def started(commands: list[tuple[list[str], dict[str, str]]], cwd: Path, timeout_s: float = 240) -> str:
    """What commands that run beside each other print; fails when one of them fails."""
    running = [
        subprocess.Popen(words, env=here(**more), cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for words, more in commands
    ]
    try:
        output = "".join(process.communicate(timeout=timeout_s)[0] for process in running)
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert all(process.returncode == 0 for process in running), output
    return output


def free_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
