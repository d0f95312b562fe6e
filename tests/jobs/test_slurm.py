"""The Slurm templates: valid shell, commands that are ours, and the right turn for every exit status. No Slurm is needed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

import jobs
from jobs.cli import parser

FOLDER = Path(jobs.__file__).parent / "cluster"
SCRIPTS = sorted(FOLDER.glob("slurm-*.sh"))

# What stands in for each of Slurm's commands: it notes its words, and does what is needed.
STANDINS = {
    "sbatch": 'echo "sbatch $*" >>"$LOG"; env | grep -E "^(SPEC|OUT|NAME|SHARDS)=" | sort >>"$LOG"; echo "$(wc -l <"$LOG");here"',
    "scontrol": 'echo "scontrol $*" >>"$LOG"',
    "srun": '"$@"',
    "convscope": 'echo "convscope $*" >>"$LOG"; exit "$STATUS"',
}


@pytest.fixture
def slurm(tmp_path: Path) -> Any:
    """A function: run a template with the stand-ins on the path. Returns: its exit status, and what was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in STANDINS.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(stat.S_IRWXU)
    log = tmp_path / "log"

    def call(script: Any, *words: Any, **variables: Any) -> Any:
        log.write_text("")
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log), "STATUS": "0", **variables}
        done = subprocess.run(["bash", FOLDER / script, *words], env=environment, capture_output=True, text=True, cwd=tmp_path)
        return done, log.read_text().splitlines()

    return call


def shard(**variables: Any) -> Any:
    usual = {"SPEC": "a b.toml", "OUT": "out", "SHARDS": "7", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "42"}
    return {**usual, **variables}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_template_is_valid_shell(script: Any) -> None:
    assert len(SCRIPTS) == 3
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


@pytest.mark.parametrize("script", ["slurm-shard.sh", "slurm-merge.sh"])
def test_the_batch_scripts_ask_for_a_signal_in_time_and_may_be_queued_again(script: Any) -> None:
    asked = re.findall(r"^#SBATCH (--[\w-]+)(?:=(\S+))?$", (FOLDER / script).read_text(), re.MULTILINE)
    assert {"--signal": "TERM@120", "--requeue": "", "--open-mode": "append"}.items() <= dict(asked).items()
    lines = (FOLDER / script).read_text().splitlines()
    assert lines[0] == "#!/bin/bash" and max(i for i, line in enumerate(lines) if line.startswith("#SBATCH")) < min(
        i for i, line in enumerate(lines) if line and not line.startswith("#")
    )


def test_a_submission_is_an_array_and_a_merge_behind_it(slurm: Any, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("# name = 'no'\nname = 'birds'  # of Europe\n")
    done, called = slurm("slurm-submit.sh", "my.toml", "s3://bucket/out", "7", "--partition=gpu")
    assert done.returncode == 0 and done.stdout == "shards: 5, merge: 10\n"
    settings = ["NAME=birds", "OUT=s3://bucket/out", "SHARDS=7", "SPEC=my.toml"]
    first = f"sbatch --parsable --array=1-7 --partition=gpu {FOLDER}/slurm-shard.sh"
    second = f"sbatch --parsable --dependency=afterok:5 --kill-on-invalid-dep=yes --partition=gpu {FOLDER}/slurm-merge.sh"
    assert called == [first, *settings, second, *settings]


def test_a_spec_that_comes_with_convscope_is_submitted_by_its_name(slurm: Any) -> None:
    for name in (path.stem for path in FOLDER.parent.glob("*.toml")):
        done, called = slurm("slurm-submit.sh", name, "out", "2")
        assert done.returncode == 0 and {f"NAME={name}", f"SPEC={name}"} <= set(called), done.stderr


@pytest.mark.parametrize("words", [[], ["my.toml", "out"], ["missing.toml", "out", "3"], ["nameless.toml", "out", "3"]])
def test_a_submission_that_cannot_be_is_refused(slurm: Any, tmp_path: Path, words: Any) -> None:
    (tmp_path / "nameless.toml").write_text("stages = []\n")
    done, called = slurm("slurm-submit.sh", *words)
    assert done.returncode == 2 and called == [] and done.stderr.count("\n") == 1


def test_a_shard_runs_what_the_command_line_takes(slurm: Any) -> None:
    done, called = slurm("slurm-shard.sh", **shard(OPTIONS="--log-json --set data.limit=5"))
    assert done.returncode == 0
    assert called == ["convscope run a b.toml --out out --shard 3/7 --log-json --set data.limit=5"]
    options = parser().parse_args(["run", "a b.toml", *called[0].split()[4:]])
    assert options.shard == (2, 7) and options.log_json and options.overrides == ["data.limit=5"]


def test_a_merge_runs_what_the_command_line_takes(slurm: Any) -> None:
    done, called = slurm("slurm-merge.sh", OUT="out", NAME="birds", SLURM_JOB_ID="43")
    assert done.returncode == 0 and called == ["convscope merge out/birds"]
    assert parser().parse_args(called[0].split()[1:]).folder == "out/birds"


@pytest.mark.parametrize(("script", "queued"), [("slurm-shard.sh", "42_3"), ("slurm-merge.sh", "43")])
def test_only_75_asks_for_another_turn_and_not_for_ever(slurm: Any, script: Any, queued: Any) -> None:
    for status in range(4):
        done, called = slurm(script, **shard(STATUS=str(status), NAME="birds", SLURM_JOB_ID="43"))
        assert done.returncode == status and len(called) == 1
    done, called = slurm(script, **shard(STATUS="75", NAME="birds", SLURM_JOB_ID="43", SLURM_RESTART_COUNT="99"))
    assert done.returncode == 75 and called[1:] == [f"scontrol requeue {queued}"]
    done, called = slurm(script, **shard(STATUS="75", NAME="birds", SLURM_JOB_ID="43", SLURM_RESTART_COUNT="100"))
    assert done.returncode == 75 and called[1:] == []
