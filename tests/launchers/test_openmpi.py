"""The exported rankfile under the real mpirun, over two hosts that this machine plays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from shardwright.planner import Strategy
from tests.launchers import plans

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")

# mpirun reaches a host by an agent; this one starts mpirun's daemon here under the host's name.
AGENT = """\
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
PLACE=$1; export PLACE; shift
exec unshare --uts sh -c "hostname $PLACE; $*"
"""
OPTIONS = "--allow-run-as-root --oversubscribe --mca plm rsh --mca plm_rsh_agent {agent} --mca btl self,tcp"
ORDERS = {"swapped": plans.hosts_swapped, "devices reversed": plans.reordered, "alternating": plans.alternating}


def run(folder: Path) -> str:
    """What the ranks print; fails when mpirun refuses the rankfile."""
    if shutil.which("mpirun") is None or shutil.which("unshare") is None or os.geteuid():
        pytest.skip("needs Open MPI's mpirun, and root to play two hosts")
    agent = folder / "agent.sh"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    more = {"MPIRUN_OPTIONS": OPTIONS.format(agent=agent)}
    words = ["sh", str(folder / "start.sh"), shutil.which("python3") or "", str(folder / "recorder.py")]
    return plans.started([(words, more)], folder, 90)


@pytest.mark.parametrize("order", ORDERS)
def test_ranks_of_openmpi_are_where_the_plan_put_them(order, tmp_path):
    plan = ORDERS[order](plans.two_hosts(Strategy(tp=2, dp_shard=2)))
    assert plans.recorded(run(plans.folder(plan, "openmpi", tmp_path))) == plans.places(plan)


@pytest.mark.parametrize(("good", "bad", "said"), [("=n1 ", "=n7 ", "n7"), ("rank 3", "rank 9", "(?i)rank")])
def test_openmpi_refuses_a_broken_rankfile(good, bad, said, tmp_path):
    folder = plans.folder(plans.two_hosts(Strategy(dp_shard=4, zero=2)), "openmpi", tmp_path)
    (folder / "rankfile").write_text((folder / "rankfile").read_text().replace(good, bad))
    with pytest.raises(AssertionError, match=said):
        run(folder)
