"""Words given to torchrun, read by torchrun's own parser."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Started:
    """What torchrun makes of its words."""

    nnodes: int
    nproc_per_node: int
    node_rank: int
    master_addr: str
    program: str
    arguments: tuple[str, ...]


def parsed(words: Sequence[str]) -> Started:
    """torchrun's own reading, which must be of a static rendezvous: any other ignores the node rank."""
    from torch.distributed.run import config_from_args, parse_args

    options = parse_args(list(words))
    config = config_from_args(options)[0]
    assert config.rdzv_backend == "static"
    assert config.min_nodes == config.max_nodes
    assert config.rdzv_configs["rank"] == options.node_rank
    return Started(
        nnodes=config.max_nodes,
        nproc_per_node=config.nproc_per_node,
        node_rank=options.node_rank,
        master_addr=options.master_addr,
        program=options.training_script,
        arguments=tuple(options.training_script_args),
    )


def places(folder: Path) -> list[tuple[str, int]]:
    """Host and device of every rank that the scripts of a folder start, by the real shell and torchrun's parser.

    The host is the one that the README's table names for the script.
    """
    recorder = folder / "words.py"
    recorder.write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['CUDA_VISIBLE_DEVICES']]))\n")
    hosts = re.findall(r'^\| (\d+) \| ("[^|]*") \|', (folder / "README.md").read_text(), re.MULTILINE)
    found = []
    for order, host in hosts:
        environment = {**os.environ, "TORCHRUN": f"{sys.executable} {recorder}"}
        words = ["sh", str(folder / f"node-{order}.sh"), "train.py"]
        run = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        given, visible = json.loads(run.stdout)
        started, devices = parsed(given), visible.split(",")
        assert (started.nnodes, started.nproc_per_node) == (len(hosts), len(devices))
        assert started.master_addr == json.loads(hosts[0][1])
        for local, device in enumerate(devices):
            found.append((started.node_rank * started.nproc_per_node + local, (json.loads(host), int(device))))
    assert sorted(rank for rank, _ in found) == list(range(len(found)))
    return [place for _, place in sorted(found)]
