"""The exported batch script under a real two-node Slurm on this machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.planner import Strategy
from tests.launchers import plans

pytest.importorskip("torch", reason="the launcher checks run in `make test-launchers`")

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPort={port}
TopologyPlugin=topology/tree
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=4 Gres=gpu:2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=4 Gres=gpu:2
PartitionName=p Nodes=ALL Default=YES State=UP
"""
TOPOLOGY = "SwitchName=leaf0 Nodes=n0\nSwitchName=leaf1 Nodes=n1\nSwitchName=spine Switches=leaf[0-1]\n"
COMMANDS = ("slurmctld", "slurmd", "srun", "sbatch", "munged")
ORDERS = {"swapped": plans.hosts_swapped, "devices reversed": plans.reordered, "alternating": plans.alternating}


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start_munge() -> None:
    """The authentication daemon that Slurm needs, unless one runs."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    if not Path("/etc/munge/munge.key").exists():
        subprocess.run(["mungekey", "-c"], check=True)
    Path("/run/munge").mkdir(exist_ok=True)
    for folder in ("/etc/munge", "/run/munge", "/var/log/munge", "/var/lib/munge"):
        subprocess.run(["chown", "-R", "munge:", folder], check=True)
    subprocess.run(["su", "munge", "-s", "/bin/sh", "-c", "munged"], check=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """A controller and two nodes; the environment that its commands need."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent or os.geteuid():
        pytest.skip(f"needs Slurm and munge as root; absent: {', '.join(absent) or 'root'}")
    start_munge()
    folder, (port, first, second) = tmp_path_factory.mktemp("slurm"), free_ports(3)
    for name in ("state", "spool-n0", "spool-n1"):
        (folder / name).mkdir()
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0], folder=folder, port=port, first=first, second=second
    )
    (folder / "slurm.conf").write_text(text)
    (folder / "topology.conf").write_text(TOPOLOGY)
    for device in range(2):
        (folder / f"gpu{device}").touch()
    (folder / "gres.conf").write_text(f"NodeName=n0,n1 Name=gpu File={folder}/gpu[0-1]\n")
    environment = {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [["slurmctld", "-D"], ["slurmd", "-D", "-N", "n0"], ["slurmd", "-D", "-N", "n1"]]
    logs = [(folder / f"daemon-{index}.log").open("w") for index in range(len(daemons))]
    running = [
        subprocess.Popen(words, env={**os.environ, **environment}, stdout=log, stderr=log)
        for words, log in zip(daemons, logs, strict=True)
    ]
    try:
        wait_for_nodes(environment, folder)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=20)
        for log in logs:
            log.close()


def wait_for_nodes(environment: dict[str, str], folder: Path) -> None:
    """Returns when both nodes are idle."""
    for _ in range(60):
        words = ["sinfo", "-N", "-h", "-o", "%N %t"]
        found = subprocess.run(words, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
        if found.stdout.split() == ["n0", "idle", "n1", "idle"]:
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text()[-2000:] for path in sorted(folder.glob("*.log")))
    pytest.fail(f"Slurm's nodes did not come up: {found.stdout} {found.stderr}\n{logs}")


def submitted(folder: Path, environment: dict[str, str]) -> str:
    """What the job prints; fails when Slurm refuses it or it fails."""
    (folder / "program.sh").write_text(f'PLACE="$SLURMD_NODENAME" exec {shutil.which("python3")} recorder.py\n')
    words = ["sbatch", "--wait", "--output=job.log", "job.sh", "sh", "program.sh"]
    output = plans.started([(words, environment)], folder, 90)
    log = folder / "job.log"
    return output + (log.read_text() if log.exists() else "")


@pytest.mark.parametrize("order", ORDERS)
def test_ranks_of_slurm_are_where_the_plan_put_them(order, cluster, tmp_path):
    plan = ORDERS[order](plans.two_hosts(Strategy(tp=2, dp_shard=2)))
    assert plans.recorded(submitted(plans.folder(plan, "slurm", tmp_path), cluster)) == plans.places(plan)


def test_slurm_puts_ranks_elsewhere_when_the_hostfile_is_sorted(cluster, tmp_path):
    plan = plans.alternating(plans.two_hosts(Strategy(dp_shard=4, zero=2)))
    folder = plans.folder(plan, "slurm", tmp_path)
    (folder / "hostfile").write_text("".join(sorted((folder / "hostfile").read_text().splitlines(True))))
    assert plans.recorded(submitted(folder, cluster)) != plans.places(plan)


@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [
        ("--nodelist=n0,n1", "--nodelist=n0,n7", "Invalid node name"),
        ("--gpus-per-node=2", "--gpus-per-node=3", "not available"),
    ],
)
def test_slurm_refuses_a_broken_export(good, bad, said, cluster, tmp_path):
    folder = plans.folder(plans.two_hosts(Strategy(dp_shard=4, zero=2)), "slurm", tmp_path)
    (folder / "job.sh").write_text((folder / "job.sh").read_text().replace(good, bad))
    with pytest.raises(AssertionError, match=said):
        submitted(folder, cluster)
