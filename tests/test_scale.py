"""Many processes: the commands of docs/scale.md on tiny data, signals, and another number of processes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from mixwell.train import checkpoint
from mixwell.train.cli import main

pytestmark = pytest.mark.slow  # a dozen launches
ROOT = Path(__file__).resolve().parents[1]
TINY = "--subset 60 --batch_size 20 --image_size 8 --device cpu --threads 1"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "SLURM_JOB_NODELIST": "here"}
SRUN = """
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" & jobs[$rank]=$!; done
echo ${jobs[@]} > pids
status=0
for job in ${jobs[@]}; do wait $job; code=$?; [ $code -gt $status ] && status=$code; done
exit $status
"""
PROGRAMS = {
    "mixwell": f'exec {sys.executable} -m mixwell "$@"',
    "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
    "accelerate": f'shift; exec {sys.executable} -m accelerate.commands.launch "$@"',
    "scontrol": '[ $1 = show ] && echo 127.0.0.1 || echo "$@" >> requeued',
    "srun": SRUN,
}


@pytest.fixture
def shell(tmp_path: Path) -> dict[str, str]:
    """An environment with the programs of the page; srun starts two processes here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    job = str(random.Random().randint(1, 19_999))  # the port follows from it
    return ENVIRONMENT | {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": job}


def blocks(epochs: int) -> list[str]:
    """Return the commands of the page, with the digits in place of CIFAR-100."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    recipe = "cifar100_resnet18_cutmix_sumix --data data/cifar"
    return [
        block.replace(recipe, f"digits --epochs {epochs} {TINY}")
        for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    ]


def done(script: str, shell: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script], cwd=folder, env=shell, capture_output=True, text=True, timeout=300, check=False
    )


def test_commands_of_the_page(shell: dict[str, str], tmp_path: Path) -> None:
    """Each command trains in two processes, or finds a finished run."""
    for block in blocks(2):
        found = done(block, shell, tmp_path)
        assert found.returncode == 0, found.stderr
    for name in ("torchrun", "accelerate", "slurm"):
        summary = json.loads((tmp_path / "runs" / name / "summary.json").read_text())
        assert (summary["epochs"], summary["environment"]["processes"]) == (2, 2), name
    assert not (tmp_path / "requeued").exists()


def test_a_job_requeues(shell: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGUSR1 to one process ends all after the epoch; the job is requeued, and its second start resumes the run.

    In one process, the rest of the run has the same batches in the same order.
    """
    *_, job = blocks(15)
    process = subprocess.Popen(["bash", "-c", job], cwd=tmp_path, env=shell, stderr=subprocess.PIPE, text=True)
    out, deadline = tmp_path / "runs" / "slurm", time.monotonic() + 200
    while checkpoint.latest(out) is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGUSR1)
    said = process.communicate(timeout=200)[1]
    assert process.returncode == 75, said
    assert (tmp_path / "requeued").read_text() == f"requeue {shell['SLURM_JOB_ID']}\n"
    epoch = checkpoint.epochs(checkpoint.latest(out) or out)
    assert 0 < epoch < 15 and f"stopped: epoch {epoch} is saved; resume with: torchrun" in said
    alone = shutil.copytree(out, tmp_path / "alone")
    assert done(job, shell, tmp_path).returncode == 0
    assert main(["train", "--resume", str(alone)]) == 0
    assert "processes: 1 here, 2 before: same batches, other random numbers" in capsys.readouterr().err
    two, one = (torch.load(next(each.glob("checkpoint/*/state.pt")), weights_only=True) for each in (out, alone))
    assert torch.equal(two["loader"], one["loader"]) and (len(two["random"]), len(one["random"])) == (2, 1)
    assert [record["lr"] for record in two["history"]] == [record["lr"] for record in one["history"]]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 15
