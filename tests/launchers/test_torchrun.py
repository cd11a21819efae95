"""The exported scripts under the real torchrun: every rank lands where the plan put it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shardwright.planner import Strategy
from tests.launchers import plans, torch_words

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")

MEETING = """\
import torch.distributed as distributed
distributed.init_process_group("gloo")
assert distributed.get_rank() == int(os.environ["RANK"])
distributed.barrier()
distributed.destroy_process_group()
"""


def on_loopback(folder: Path) -> str:
    """What the ranks print when both hosts' scripts run on this machine and find each other on the loopback."""
    port, commands = plans.free_port(), []
    for script in sorted(folder.glob("node-*.sh")):
        host = re.search(r"^host=(\S+)$", script.read_text(), re.MULTILINE)
        assert host
        more = {"PLACE": host[1], "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        commands.append((["sh", str(script), str(folder / "recorder.py")], more))
    return plans.started(commands, folder)


def test_ranks_meet_under_torchrun_where_the_plan_put_them(tmp_path):
    plan = plans.reordered(plans.two_hosts(Strategy(tp=2, dp_shard=2)))
    folder = plans.folder(plan, "torchrun", tmp_path)
    (folder / "recorder.py").write_text(plans.RECORDER + MEETING)
    assert plans.recorded(on_loopback(folder)) == plans.places(plan)


@pytest.mark.parametrize("launcher", ["torchrun", "megatron", "megatron-bridge", "torchtitan"])
def test_every_script_for_torchrun_gives_its_parser_the_ranks_of_its_host(launcher, tmp_path):
    plan = plans.reordered(plans.two_hosts(Strategy(tp=2, sp=True, dp_shard=8, zero=3), 8))
    assert torch_words.places(plans.folder(plan, launcher, tmp_path)) == plans.places(plan)


def test_a_script_with_another_node_rank_puts_ranks_elsewhere(tmp_path):
    plan = plans.hosts_swapped(plans.two_hosts(Strategy(dp_shard=4, zero=2)))
    folder = plans.folder(plan, "torchrun", tmp_path)
    for name, old, new in (("node-0.sh", 0, 1), ("node-1.sh", 1, 0)):
        text = (folder / name).read_text()
        (folder / name).write_text(text.replace(f"--node-rank={old}", f"--node-rank={new}"))
    assert plans.recorded(on_loopback(folder)) != plans.places(plan)


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("--rdzv-backend=static", "--rdzv-backend=none", "'none' is not registered"),
        ("--nproc-per-node=2", "--no-such-flag", "unrecognized arguments"),
    ],
)
def test_torchrun_refuses_a_broken_export(good, bad, said, tmp_path):
    folder = plans.folder(plans.two_hosts(Strategy(dp_shard=4, zero=2)), "torchrun", tmp_path)
    script = folder / "node-0.sh"
    script.write_text(script.read_text().replace(good, bad))
    with pytest.raises(AssertionError, match=said):
        plans.started([(["sh", str(script), "recorder.py"], {"PLACE": "n0"})], folder)
