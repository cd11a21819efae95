"""What the start scripts of an export run, word for word, and what an engine started by one answers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardwright.planner import ServingPlan, export_plan

# Catalog entries keep no model_type; engines tell configurations apart by it.
MODEL_TYPES = {
    "LlamaForCausalLM": "llama",
    "DeepseekV3ForCausalLM": "deepseek_v3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
}


def folder(plan: ServingPlan, launcher: str, where: Path) -> Path:
    """The whole export, written where it was asked for."""
    for name, text in export_plan(plan, launcher).files.items():
        (where / name).write_text(text)
    return where


def model_folder(plan: ServingPlan, where: Path) -> str:
    """A directory with the configuration of the plan's model, for engines that read one before they start."""
    document = next(record.document for record in plan.inputs if record.role == "model")
    assert isinstance(document, dict)
    made = where / "model"
    made.mkdir(exist_ok=True)
    kind = {"model_type": MODEL_TYPES[document["architectures"][0]], "torch_dtype": "bfloat16"}
    (made / "config.json").write_text(json.dumps({**document, **kind}))
    return str(made)


def started(script: Path, variable: str) -> tuple[list[str], dict[str, str]]:
    """The words and environment that a script gives its program, as the real shell reads it."""
    recorder = script.parent / "recorder.py"
    recorder.write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n")
    environment = {**os.environ, variable: f"{sys.executable} {recorder}"}
    found = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, check=True)
    words, variables = json.loads(found.stdout)
    return words, variables


def worker_scripts(where: Path) -> list[Path]:
    """The scripts that start a worker or a part of one."""
    names = sorted(where.glob("*.sh"))
    return [path for path in names if not path.name.startswith(("host-", "router"))]


def free_port() -> int:
    """A port that nothing uses at the moment."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.contextmanager
def serving(script: Path, words: list[str], environment: dict[str, str], log: Path) -> Iterator[str]:
    """The address of a server that an exported script starts; it is ended with all its processes.

    Raises RuntimeError with the end of its log when it ends before it serves, or serves nothing in ten minutes.
    """
    port = free_port()
    with log.open("w") as stream:
        process = subprocess.Popen(
            ["sh", str(script), *words, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **environment},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            for _ in range(600):
                if process.poll() is not None:
                    raise RuntimeError(f"the engine ended with {process.returncode}: {log.read_text()[-3000:]}")
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                    break
                time.sleep(1)
            else:
                raise RuntimeError(f"the engine did not come up: {log.read_text()[-3000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def completion(address: str, **request: Any) -> dict[str, Any]:
    """The answer of the OpenAI completions endpoint."""
    body = json.dumps(request).encode()
    message = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(message, timeout=120) as answer:
            found: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{error.code}: {error.read().decode()[:1000]}") from error
    return found
