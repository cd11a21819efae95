"""The folder of a serving export: a script a worker's part, one a host, a router, and a README. Names are data."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..plan.serving import PoolPlan
from .base import Context, Export
from .folder import cell, plan_file, yaml_text
from .serving_model import loading_format, plan_notes, weights
from .serving_workers import ROUTER_PORT, Part, Worker, pool_names, see_devices, serving_plan, split_pools


@dataclass(frozen=True)
class Command:
    """A program of ours with groups of words, one a line, that the shell reads as data.

    `lines` stand after the words as they are, for what the shell itself must fill in.
    """

    program: str
    words: Sequence[Sequence[str]]
    lines: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """An engine that is started part by part of a worker, with a router of its own in front of several workers.

    `options` are a pool's, `command` starts a part (told whether it is the only worker), `route` the router (told
    whether pools are split), and `notes` are what the user must arrange.
    """

    title: str
    router: str
    options: Callable[[Context, PoolPlan, str], dict[str, Any]]
    command: Callable[[Context, Worker, int, bool], Command]
    route: Callable[[tuple[Worker, ...], bool], Command]
    notes: Callable[[Context, str], tuple[str, ...]]


def engine_export(context: Context, launcher: str, engine: Engine, found: tuple[Worker, ...]) -> Export:
    """A configuration a pool, a script a part, host and router, and a README. Raises InputError as `options` does."""
    plan, alone = serving_plan(context), len(found) == 1
    files = {
        f"{name}.yaml": yaml_text(engine.options(context, pool, launcher))
        for name, pool in zip(pool_names(plan), plan.pools, strict=True)
    }
    for worker in found:
        for index in range(len(worker.parts)):
            command = engine.command(context, worker, index, alone)
            files[part_name(worker, index)] = part_script(context, worker, index, command)
    scripts, rows = host_scripts(found)
    files |= scripts
    steps = [
        f"Copy this folder to every host of the table; {engine.title} and the weights must be there.",
        "Run each host's script there, in any order: parts of one worker wait for each other.",
    ]
    if not alone:
        files["router.sh"] = router_script(engine.route(found, split_pools(plan)))
        steps += [f"When all workers serve, run `sh router.sh` where the workers' names resolve ({engine.router})."]
    steps += [f"Send requests to port {ROUTER_PORT}{' of the router' if not alone else ' of order 0'}."]
    notes = engine.notes(context, launcher)
    files["README.md"] = serving_readme(f"Start with {engine.title}", steps, rows, notes)
    return serving_export(context, files, notes)


def serving_export(context: Context, files: dict[str, str], notes: tuple[str, ...]) -> Export:
    """A folder whose configurations are its text, with the plan."""
    text = "---\n".join(files[name] for name in files if name.endswith(".yaml"))
    return Export(text=text, files={**files, **plan_file(context)}, cannot_express=notes)


def user_notes(context: Context, launcher: str, formats: Mapping[str, str], version: str) -> tuple[str, ...]:
    """What the user of vLLM or SGLang must arrange beside the files."""
    plan = serving_plan(context)
    notes = [*weights(context, launcher).notes, *loading_format(context, launcher, formats)[1]]
    if split_pools(plan):
        notes.append("NIXL (the nixl package) must be installed where prefill and decode workers run")
    return (*notes, *plan_notes(plan, version))


def part_name(worker: Worker, index: int) -> str:
    """The script of one part."""
    return f"{worker.name}.sh" if len(worker.parts) == 1 else f"{worker.name}-part-{index}.sh"


def part_script(context: Context, worker: Worker, index: int, command: Command) -> str:
    """A script that starts one part of a worker on its devices; what it is called with follows the command."""
    part = worker.parts[index]
    variable, value = see_devices(context, part)
    exports = {variable: value, **command.environment}
    lines = [
        "#!/bin/sh",
        f"# {worker.name}, part {index + 1} of {len(worker.parts)}.",
        "set -eu",
        'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
        *(f"export {name}={shlex.quote(text)}" for name, text in exports.items()),
        f"host={shlex.quote(part.host)}",
        f"first_host={shlex.quote(worker.parts[0].host)}",
        f'echo "starting {worker.name} on $host, devices {value}" >&2',
    ]
    return "\n".join(lines) + "\nexec " + _joined(command) + "\n"


def router_script(command: Command) -> str:
    """The script that starts the router in front of the workers."""
    return "#!/bin/sh\nset -eu\nexec " + _joined(command) + "\n"


def _joined(command: Command) -> str:
    groups = [" ".join(shlex.quote(word) for word in group) for group in command.words]
    return " \\\n  ".join([command.program, *groups, *command.lines, '"$@"'])


def host_scripts(found: Sequence[Worker]) -> tuple[dict[str, str], list[tuple[str, Part, list[str]]]]:
    """A script for every host that starts all its parts and ends them together, and the rows of the README's table."""
    by_node: dict[int, list[tuple[str, Part]]] = {}
    for worker in found:
        for index, part in enumerate(worker.parts):
            by_node.setdefault(part.node, []).append((part_name(worker, index), part))
    scripts, rows = {}, []
    for number, parts in enumerate(by_node.values()):
        names = [name for name, _ in parts]
        scripts[f"host-{number}.sh"] = "\n".join(
            [
                "#!/bin/sh",
                "# Starts all workers of one host; their output goes to logs/. Ending this ends them.",
                "set -u",
                'here=$(CDPATH="" cd -- "$(dirname -- "$0")" && pwd)',
                'mkdir -p "$here/logs"',
                "pids=",
                "trap 'kill $pids 2>/dev/null' INT TERM EXIT",
                *(f'sh "$here/{name}" "$@" >"$here/logs/{name}.log" 2>&1 & pids="$pids $!"' for name in names),
                "wait",
                "",
            ]
        )
        rows.append((f"host-{number}.sh", parts[0][1], names))
    return scripts, rows


def http_url(worker: Worker) -> str:
    """Where a worker serves."""
    return f"http://{worker.parts[0].host}:{worker.http_port}"


def serving_port(worker: Worker, alone: bool) -> int:
    """The port of a worker: the deployment's own when no router stands before it."""
    return ROUTER_PORT if alone else worker.http_port


def serving_readme(
    title: str, steps: Iterable[str], rows: Sequence[tuple[str, Part, list[str]]], notes: Iterable[str] = ()
) -> str:
    """How to start, in order, and which host starts what."""
    lines = [f"# {title}", "", *(f"{number}. {step}" for number, step in enumerate(steps, 1))]
    if rows:
        lines += ["", "| order | host | run there | which starts |", "|---|---|---|---|"]
        lines += [
            f"| {order} | {cell(part.host)} | `sh {script}` | {', '.join(names)} |"
            for order, (script, part, names) in enumerate(rows)
        ]
    for note in notes:
        lines += ["", f"Yours to arrange: {sentence(note)}."]
    return "\n".join(lines) + "\n"


def sentence(note: str) -> str:
    """A sentence in which no sign is read as markup or as a new line."""
    return " ".join(note.split()).replace("`", "'").replace("<", "(").replace("|", "/")
