"""The folder a user needs: start scripts, the plan, and a README with the exact order. Names are written as data."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from ..plan.io import dump
from .base import Context
from .hosts import Host, visible_devices

PORT = 29500
PLAN_MODULE = "shardwright_plan"


def start_scripts(
    context: Context,
    ordered: Sequence[Host],
    program: Iterable[Sequence[str]] = (),
    environment: dict[str, str] | None = None,
) -> dict[str, str]:
    """One script a host that starts its ranks with torchrun's static rendezvous, which keeps the node rank given.

    `program` is the program and its arguments, one group a line; what the script is called with follows them.
    """
    return {
        f"node-{index}.sh": _start_script(context, ordered, index, list(program), environment or {})
        for index in range(len(ordered))
    }


def _start_script(
    context: Context, ordered: Sequence[Host], index: int, program: list[Sequence[str]], environment: dict[str, str]
) -> str:
    host = ordered[index]
    variable, value = visible_devices(context, host.devices)
    exports = {variable: value, **environment}
    lines = [
        "#!/bin/sh",
        f"# Ranks {host.ranks[0]} to {host.ranks[1]}.",
        "set -eu",
        'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
        'export SHARDWRIGHT_PLAN="$here/plan.json"',
        'export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"',
        *(f"export {name}={shlex.quote(text)}" for name, text in exports.items()),
        f"host={shlex.quote(host.name)}",
        f"first_host={shlex.quote(ordered[0].name)}",
        'echo "starting ranks on $host" >&2',
    ]
    words = [
        "exec ${TORCHRUN:-torchrun}",
        f"--nnodes={len(ordered)} --nproc-per-node={len(host.devices)} --node-rank={index}",
        f'--rdzv-backend=static --master-addr="${{MASTER_ADDR:-$first_host}}" --master-port="${{MASTER_PORT:-{PORT}}}"',
        *(" ".join(shlex.quote(word) for word in group) for group in program),
        '"$@"',
    ]
    return "\n".join(lines) + "\n" + " \\\n  ".join(words) + "\n"


def rank_wrapper(rank_variable: str) -> str:
    """A script that gives a process started as one rank what torch.distributed reads, out of `ranks.txt`."""
    return "\n".join(
        [
            "#!/bin/sh",
            "# Every rank runs this: it looks its line up and becomes the program given.",
            "set -eu",
            'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
            f"RANK=${rank_variable}",
            "export RANK",
            'line=$(sed -n "$((RANK + 1))p" "$here/ranks.txt")',
            "read -r _ LOCAL_RANK WORLD_SIZE MASTER_ADDR variable value <<EOF\n$line\nEOF",
            "export LOCAL_RANK WORLD_SIZE MASTER_ADDR",
            'export "$variable=$value"',
            f"export MASTER_PORT=${{MASTER_PORT:-{PORT}}}",
            'export SHARDWRIGHT_PLAN="$here/plan.json"',
            'export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"',
            'exec "$@"',
            "",
        ]
    )


def rank_table(context: Context, names: Sequence[str], where: Sequence[tuple[int, int]]) -> str:
    """`ranks.txt`: rank, local rank, world size, host of rank 0, and the variable that shows the node's devices."""
    by_node: dict[int, list[int]] = {}
    for node, device in where:
        by_node.setdefault(node, []).append(device)
    seen: dict[int, int] = {}
    lines = []
    for rank, (node, _) in enumerate(where):
        local = seen.get(node, 0)
        seen[node] = local + 1
        variable, value = visible_devices(context, tuple(by_node[node]))
        lines.append(f"{rank} {local} {len(where)} {names[0]} {variable} {value}\n")
    return "".join(lines)


def readme(title: str, steps: Iterable[str], ordered: Sequence[Host] = (), notes: Iterable[str] = ()) -> str:
    """How to start, in order. Names of hosts stand as JSON strings, so that no sign in them is read as markup."""
    lines = [f"# {title}", "", *(f"{number}. {step}" for number, step in enumerate(steps, 1))]
    if ordered:
        lines += ["", "| order | host | ranks | devices of the host |", "|---|---|---|---|"]
        lines += [
            f"| {index} | {cell(host.name)} | {host.ranks[0]}–{host.ranks[1]} | {', '.join(map(str, host.devices))} |"
            for index, host in enumerate(ordered)
        ]
    for note in notes:
        lines += ["", f"Not in this folder: {note}."]
    return "\n".join(lines) + "\n"


def cell(name: str) -> str:
    """A name as a JSON string that no Markdown table reads as markup."""
    return json.dumps(name).replace("|", "\\u007c").replace("<", "\\u003c").replace("`", "\\u0060")


def plan_file(context: Context) -> dict[str, str]:
    """The plan itself, which programs find by SHARDWRIGHT_PLAN."""
    return {"plan.json": dump(context.plan)}


def program_files(context: Context) -> dict[str, str]:
    """The plan, and the module by which a PyTorch program reads it, for launchers that only start ranks."""
    return {**plan_file(context), f"{PLAN_MODULE}.py": Path(__file__).with_name("torch_plan.py").read_text("utf-8")}


def yaml_text(document: object) -> str:
    """A document as YAML; every string is quoted where YAML would read it as something else."""
    text: str = yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=1 << 20)
    return text


class _Plain(yaml.SafeDumper):
    """Writes what stands twice in a document twice: not every reader takes aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def object_name(text: str, longest: int = 40) -> str:
    """A name that Kubernetes and clouds accept, made of what a text has of small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-") or "plan"
