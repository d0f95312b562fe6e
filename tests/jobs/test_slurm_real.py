"""The Slurm templates on a real Slurm of one node, which the test sets up as root: slurmctld, slurmd and munge.

As they are, but for the command: what asks for eight cores, a GPU and 16 GB gets them on paper.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import jobs
from pipeline import load_spec, run

FOLDER = Path(jobs.__file__).parent / "cluster"
ROOT = Path(__file__).resolve().parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, (*DAEMONS, "sbatch"))), reason="no Slurm: apt install slurmctld slurmd slurm-client munge"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may start Slurm's daemons"),
]

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmctldPort={port}
SlurmdPort={other}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1
MpiDefault=none
SwitchType=switch/none
KillWait=1
MinJobAge=600
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=32 RealMemory=80000 Gres=gpu:4 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""

# The first turn of the first task is out of time, and that of the second never ends.
COMMAND = """#!/bin/bash
echo "$SLURM_JOB_NAME ${{SLURM_ARRAY_TASK_ID:-}} turn ${{SLURM_RESTART_COUNT:-0}}" >>"{log}"
if [ "${{SLURM_RESTART_COUNT:-0}}" = 0 ]; then
    case "${{SLURM_ARRAY_TASK_ID:-}}" in
        1) exit 75 ;;
        2) sleep 300 ;;
    esac
fi
exec {python} -m jobs "$@"
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands reach a cluster of one node."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    ports = [_free_port(), _free_port()]
    settings = {"host": socket.gethostname().split(".")[0], "folder": folder, "port": ports[0], "other": ports[1]}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**settings))
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"Name=gpu File={folder}/gpu[0-3]\n")
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": str(ROOT), "CONVSCOPE_CACHE": "off"}
    munge = {
        "key-file": "munge.key",
        "socket": "munge.sock",
        "pid-file": "munged.pid",
        "log-file": "munge.log",
        "seed-file": "seed",
    }
    started = [
        ["munged", "--force", *(f"--{option}={folder / name}" for option, name in munge.items())],
        ["slurmctld", "-f", folder / "slurm.conf"],
        ["slurmd", "-f", folder / "slurm.conf", "-N", settings["host"]],
    ]
    try:
        for words in started:
            subprocess.run(words, env=environment, check=True)
        eventually(lambda: "idle" in call(environment, "sinfo", "-h", "-o", "%T"), 30, lambda: _logs(folder))
        yield environment
    finally:
        for name in reversed(DAEMONS):
            if (folder / f"{name}.pid").exists():
                os.kill(int((folder / f"{name}.pid").read_text()), 15)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _logs(folder: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-1500:] for path in folder.glob("*.log"))


def call(environment: dict[str, str], *words: Any, **options: Any) -> str:
    done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def eventually(is_so: Callable[[], bool], seconds: float, said: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, said()
        time.sleep(0.3)


def test_an_array_is_merged_though_one_task_ran_out_of_time_and_one_was_killed(
    slurm: dict[str, str], write_spec: Any, quiet: Any, tree_of: Any, tmp_path: Path
) -> None:
    spec, log = write_spec(tmp_path / "job.toml"), tmp_path / "turns"
    log.touch()
    (tmp_path / "convscope").write_text(COMMAND.format(log=log, python=sys.executable))
    (tmp_path / "convscope").chmod(0o755)
    environment = slurm | {"CONVSCOPE": str(tmp_path / "convscope")}
    submitted = call(environment, "bash", FOLDER / "slurm-submit.sh", spec, tmp_path / "out", "3", cwd=tmp_path)
    array, merge = (word.rstrip(",") for word in submitted.split() if word.rstrip(",").isdecimal())

    def logs() -> str:
        return log.read_text() + "".join(path.read_text() for path in tmp_path.glob("*.log")) + call(slurm, "squeue")

    eventually(lambda: "convscope-shard 2 turn 0" in log.read_text(), 60, logs)
    assert "convscope-merge" not in log.read_text()
    call(slurm, "scontrol", "requeue", f"{array}_2")  # kills it, as a node that fails does
    eventually(lambda: f"JobId={merge}" in call(slurm, "scontrol", "show", "job", merge), 10)
    eventually(lambda: "JobState=COMPLETED" in call(slurm, "scontrol", "show", "job", merge), 240, logs)
    turns = log.read_text().splitlines()
    assert sorted(turns[:-1]) == [
        *(f"convscope-shard {task} turn {turn}" for task, turn in ((1, 0), (1, 1), (2, 0), (2, 1), (3, 0)))
    ]
    assert turns[-1] == "convscope-merge  turn 0"
    expected = run(load_spec(spec), tmp_path / "here", reporter=quiet)
    assert tree_of(tmp_path / "out" / "tiny", "index") == tree_of(expected, "index")


def test_a_shard_that_is_wrong_is_not_queued_again_and_the_merge_never_starts(slurm: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "wrong").write_text("#!/bin/bash\nexit 2\n")
    (tmp_path / "wrong").chmod(0o755)
    environment = slurm | {"CONVSCOPE": str(tmp_path / "wrong")}
    submitted = call(environment, "bash", FOLDER / "slurm-submit.sh", "demo", tmp_path / "out", "2", cwd=tmp_path)
    array, merge = (word.rstrip(",") for word in submitted.split() if word.rstrip(",").isdecimal())
    eventually(lambda: call(slurm, "squeue", "-h").strip() == "", 60, lambda: call(slurm, "squeue"))
    shown = call(slurm, "scontrol", "show", "job", array)
    assert shown.count("JobState=FAILED") == 2 and "ExitCode=2:0" in shown and "Restarts=0" in shown
    assert "JobState=CANCELLED" in call(slurm, "scontrol", "show", "job", merge)
