"""The routers' own parsers read the exported commands: every worker once, under its role."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from tests.engines import scripts
from tests.serving_plans import plan_of

ROUTERS = {"vllm": ("vllm_router", "VLLM_ROUTER", 0), "sglang": ("sglang_router", "PYTHON", 2)}


def parsed(engine: str, words: list[str]) -> Any:
    """The router's arguments as its command line makes them."""
    package, _, program = ROUTERS[engine]
    module = pytest.importorskip(f"{package}.router_args", reason="the engine checks run in `make test-engines`")
    made = argparse.ArgumentParser()
    module.RouterArgs.add_cli_args(made, use_router_prefix=False, exclude_host_port=False)
    return module.RouterArgs.from_cli_args(made.parse_args(words[program:]))


@pytest.mark.parametrize("engine", list(ROUTERS))
def test_a_router_of_whole_workers_knows_them_all(engine, tmp_path):
    where = scripts.folder(plan_of("two workers on a node", engine), engine, tmp_path)
    found = parsed(engine, scripts.started(where / "router.sh", ROUTERS[engine][1])[0])
    assert found.worker_urls == ["http://dgx-h100:8100", "http://dgx-h100:8101"]
    assert (found.port, found.policy) == (8000, "power_of_two")


@pytest.mark.parametrize("engine", list(ROUTERS))
def test_a_router_of_split_workers_knows_their_roles(engine, tmp_path):
    where = scripts.folder(plan_of("split", engine), engine, tmp_path)
    found = parsed(engine, scripts.started(where / "router.sh", ROUTERS[engine][1])[0])
    split = found.vllm_pd_disaggregation if engine == "vllm" else found.pd_disaggregation
    assert split
    assert [url for url, _ in found.prefill_urls] != []
    assert len(found.prefill_urls) == 2
    assert len(found.decode_urls) == 1
    assert {port for _, port in found.prefill_urls} == ({None} if engine == "vllm" else {9000, 9100})


@pytest.mark.parametrize("engine", list(ROUTERS))
@pytest.mark.parametrize("change", [["--policy", "luck"], ["--port", "many"], ["--no-such-option"]], ids=" ".join)
def test_a_router_refuses_a_broken_command(engine, change, tmp_path):
    where = scripts.folder(plan_of("split", engine), engine, tmp_path)
    words, _ = scripts.started(where / "router.sh", ROUTERS[engine][1])
    with pytest.raises(SystemExit):
        parsed(engine, [*words, *change])
