"""Every command of the pages on training runs as it is written, on tiny data.

The commands of a page run in order, in one folder. Options that make a training small are appended to those of the
page, which are still parsed. Here ``torchrun`` and ``accelerate launch`` start two processes without GPUs, ``srun`` of
the batch system starts two, and ``scontrol`` writes down what it is asked to requeue. Sweeps run on Ray, on a cluster
of one node where the page has a cluster.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
from PIL import Image

from mixwell.train import checkpoint, cli, sweep
from mixwell.train.recipes import RECIPES
from test_cifar_files import pickles
from test_docs_code import blocks, commands

TINY = "--epochs 2 --batch_size 20 --image_size 16 --workers 0 --save_every 1 --threads 1 --device cpu"
APPEND = 'case " $* " in *" --resume "*) ;; *" train "*) set -- "$@" $TINY ;; esac'
SRUN = """
for rank in 0 1; do SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=2 "$@" & jobs[$rank]=$!; done
echo ${jobs[@]} > pids
status=0
for job in ${jobs[@]}; do wait $job; code=$?; [ $code -gt $status ] && status=$code; done
exit $status
"""
PROGRAMS = {
    "mixwell": f'{APPEND}\nexec {sys.executable} -m mixwell "$@"',
    "torchrun": f'{APPEND}\nexec {sys.executable} -m torch.distributed.run "$@"',
    "accelerate": f'{APPEND}\nshift\nexec {sys.executable} -m accelerate.commands.launch "$@"',
    "scontrol": '[ $1 = show ] && echo 127.0.0.1 || echo "$@" >> requeued',
    "srun": SRUN,
}


def bash(page: str) -> list[str]:
    """Return the blocks of commands of a page."""
    return [block.code for block in blocks(page) if block.language == "bash"]


def files(page: str) -> dict[str, str]:
    """Return the files that a page shows, whose first line is a comment with their name."""
    return {name[1]: block.code for block in blocks(page) if (name := re.match(r"# (\S+\.yaml)\n", block.code))}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with CIFAR-100 in ``data/cifar``, and folders of images in ``DIR`` and ``data/imagenet``."""
    pickles(tmp_path / "data" / "cifar" / "cifar-100-python", hundred=True, count=60)
    draw = np.random.default_rng(0)
    for name in (f"{split}/{kind}/{n}.jpg" for split in ("train", "val") for kind in ("cat", "dog") for n in range(10)):
        path = tmp_path / "DIR" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    shutil.copytree(tmp_path / "DIR", tmp_path / "data" / "imagenet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shell(folder: Path) -> dict[str, str]:
    """An environment with the programs that the pages use."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    job = str(random.Random().randint(1, 19_999))  # the port follows from it
    mine = {"TINY": TINY, "SLURM_JOB_ID": job, "SLURM_JOB_NODELIST": "here", "OMP_NUM_THREADS": "1"}
    return os.environ | mine | {"PATH": f"{programs}:{os.environ['PATH']}"}


def done(script: str, shell: dict[str, str]) -> str:
    """Run a script, which must succeed, and return its output."""
    log = Path("output.txt")
    with log.open("w") as file:
        process = subprocess.Popen(["bash", "-ec", script], env=shell, stdout=file, stderr=file, start_new_session=True)
    try:
        status = process.wait(1800)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)  # Ray stops its processes
        raise
    assert status == 0, f"{script}\n{log.read_text()}"
    return log.read_text()


def free_port() -> int:
    """Return a port that no program listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def summary(run: str) -> tuple[int, int, str]:
    """Return epochs, processes and recipe of a complete run."""
    found = json.loads((Path("runs") / run / "summary.json").read_text())
    config = json.loads((Path("runs") / run / "config.json").read_text())
    return found["epochs"], found["environment"]["processes"], config["recipe"]


CIFAR, IMAGENET = "cifar100_resnet18_cutmix_sumix", "imagenet_resnet50_cutmix"


@pytest.mark.usefixtures("folder")
def test_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """All commands of the page, in this process; pretrained weights are not downloaded, but timm must have them."""
    timm, fetched = pytest.importorskip("timm"), []
    create = timm.create_model

    def without_download(name: str, pretrained: bool = False, **settings: Any) -> torch.nn.Module:
        assert not pretrained or name in timm.list_pretrained()
        fetched.extend([name] * pretrained)
        return create(name.partition(".")[0], **settings)

    monkeypatch.setattr(timm, "create_model", without_download)
    for block in bash("docs/train.md"):
        for words in commands(block):
            assert words[0] == "mixwell"
            tiny = TINY.split() if words[1] == "train" and "--resume" not in words else []
            assert cli.main([*words[1:], *tiny]) == 0, words
    assert fetched == ["resnet50.a1_in1k"] and Path("report.html").stat().st_size > 10_000
    folders = [path.parent for path in Path("runs").glob("*/summary.json")]
    assert len(folders) == 3 and all(summary(each.name)[0] == 2 for each in folders)


@pytest.mark.slow
def test_two_processes(shell: dict[str, str]) -> None:
    """The first command of the page; all others are slow."""
    done(bash("docs/scale.md")[0], shell)
    assert summary("torchrun") == (2, 2, CIFAR)


def test_batches_can_be_divided() -> None:
    """The batch of a recipe divides by the number of processes that the command starts."""
    found = []
    for block in bash("docs/scale.md"):
        for processes in re.findall(r"--(?:nproc-per-node|num_processes|ntasks-per-node)[= ](\d+)", block):
            recipe, nodes = re.search(r"(\w+) --data", block), re.search(r"--n?nodes[= ](\d+)", block)
            if recipe:
                found.append(int(processes) * int(nodes[1] if nodes else 1))
                assert RECIPES[recipe[1]]().batch_size % found[-1] == 0, block
    assert found == [2, 2, 16, 16]


@pytest.mark.slow
def test_two_machines(shell: dict[str, str]) -> None:
    """Two launches on this machine, of one process each, form one run."""
    command = bash("docs/scale.md")[2]
    for there, here in (("HEAD_NODE:29500", f"127.0.0.1:{free_port()}"), ("--nproc-per-node 8", "--nproc-per-node 1")):
        assert there in command
        command = command.replace(there, here)
    done(f"({command}) & ({command}); wait $!", shell)
    assert summary("machines") == (2, 2, IMAGENET)


@pytest.mark.slow
def test_scale(shell: dict[str, str]) -> None:
    """Each command trains in two processes, resumes a run that was stopped, or trains in a job of two tasks."""
    torchrun, accelerate, _, resume, job = bash("docs/scale.md")
    done(accelerate, shell)
    assert summary("accelerate") == (2, 2, CIFAR)
    done(job, shell)
    assert summary("slurm") == (2, 2, IMAGENET) and not Path("requeued").exists()
    stopped(torchrun, shell | {"TINY": TINY.replace("epochs 2", "epochs 6")}, Path("runs/torchrun"))
    Path("runs/torchrun").rename("stopped")
    for line, processes in zip(resume.splitlines(), (1, 2), strict=True):
        shutil.copytree("stopped", "runs/torchrun")
        done(line, shell)
        assert summary("torchrun") == (6, processes, CIFAR)
        shutil.rmtree("runs/torchrun")


def stopped(command: str, shell: dict[str, str], run: Path) -> None:
    """Start a command, and stop it after its first checkpoint."""
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], env=shell)
    wait_for_checkpoint(process, run)
    process.terminate()
    process.wait(120)
    assert not (run / "summary.json").exists()


def wait_for_checkpoint(process: subprocess.Popen[Any], run: Path) -> None:
    deadline = time.monotonic() + 900
    while checkpoint.latest(run) is None:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_requeues(shell: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SIGUSR1 to one process ends all after the epoch; the job is requeued, and its second start resumes the run.

    In one process, the rest of the run has the same batches in the same order.
    """
    *_, job = bash("docs/scale.md")
    shell["TINY"] = TINY.replace("epochs 2", "epochs 15")
    process = subprocess.Popen(["bash", "-c", job], env=shell, stderr=subprocess.PIPE, text=True)
    out = folder / "runs" / "slurm"
    wait_for_checkpoint(process, out)
    os.kill(int((folder / "pids").read_text().split()[1]), signal.SIGUSR1)
    said = process.communicate(timeout=900)[1]
    assert process.returncode == 75, said
    assert (folder / "requeued").read_text() == f"requeue {shell['SLURM_JOB_ID']}\n"
    epoch = checkpoint.epochs(checkpoint.latest(out) or out)
    assert 0 < epoch < 15 and f"stopped: epoch {epoch} is saved; resume with: torchrun" in said
    alone = shutil.copytree(out, folder / "alone")
    done(job, shell)
    assert cli.main(["train", "--resume", str(alone)]) == 0
    assert "processes: 1 here, 2 before: same batches, other random numbers" in capsys.readouterr().err
    two, one = (torch.load(next(each.glob("checkpoint/*/state.pt")), weights_only=True) for each in (out, alone))
    assert torch.equal(two["loader"], one["loader"]) and (len(two["random"]), len(one["random"])) == (2, 1)
    assert [record["lr"] for record in two["history"]] == [record["lr"] for record in one["history"]]
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 15


def test_sweep_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files of the page are valid, and have as many runs as it says; the first command shows those of one."""
    shown = [block.code for block in blocks("docs/sweeps.md") if block.language == "yaml"]
    counts = []
    for text in shown:
        Path("shown.yaml").write_text(text)
        counts.append(len(sweep.parse(Path("shown.yaml")).trials(folder)))
    assert counts == [9, 40, 10]
    Path("digits.yaml").write_text(files("docs/sweeps.md")["digits.yaml"])
    [words] = commands(bash("docs/sweeps.md")[0])
    assert "--dry_run" in words and cli.main(words[1:]) == 0
    assert len(re.findall("^mixwell train digits .*$", capsys.readouterr().out, re.MULTILINE)) == 9


def tiny_sweep(name: str, **changes: Any) -> None:
    """Write a file of the page on sweeps, with smaller runs."""
    import yaml

    content = yaml.safe_load(files("docs/sweeps.md")[name])
    content["settings"] |= {"epochs": 2, "image_size": 8, "device": "cpu"}
    Path(name).write_text(yaml.safe_dump(content | changes))


@pytest.mark.slow
def test_sweeps(shell: dict[str, str]) -> None:
    """The sweep trains its nine runs, and finds them when it is repeated."""
    pytest.importorskip("ray")
    tiny_sweep("digits.yaml")
    _, sweep_here, _ = bash("docs/sweeps.md")
    said = done(sweep_here, shell)
    assert len([*Path("runs/digits/runs").glob("*/summary.json")]) == 9, said
    assert {path.name for path in Path("runs/digits").iterdir()} >= {"report.html", "table.md"}
    assert "9 of 9 runs in runs/digits are done" in done(sweep_here, shell)


@pytest.fixture
def cluster(folder: Path) -> Iterator[str]:
    """The address of a Ray cluster of this machine alone; Ray may need several attempts on a busy machine."""
    ray, log = pytest.importorskip("ray"), folder / "head.txt"
    with tempfile.TemporaryDirectory(prefix="ray") as short:
        for _ in range(5):
            port = free_port()
            words = ["--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", *words, f"--temp-dir={short}"]
            with log.open("w") as file:
                head = subprocess.Popen(start, start_new_session=True, stdout=file, stderr=file)
            while head.poll() is None and "runtime started" not in log.read_text():
                time.sleep(0.2)
            if head.poll() is None:
                break
        try:
            assert head.poll() is None, log.read_text()
            yield f"{ray.util.get_node_ip_address()}:{port}"
        finally:
            head.terminate()
            head.wait(60)


@pytest.mark.slow
def test_sweeps_on_a_cluster(shell: dict[str, str], cluster: str) -> None:
    """Each command connects to a cluster and trains there; ``RAY_ADDRESS`` keeps ``auto`` off other clusters here."""
    *_, on_cluster = bash("docs/sweeps.md")
    tiny_sweep("digits.yaml", seeds=[0])
    for line in on_cluster.splitlines():
        environment = shell | ({"RAY_ADDRESS": cluster} if "auto" in line else {})
        said = done(line.replace("HEAD_NODE:6379", cluster), environment)
        assert len([*Path("runs/digits/runs").glob("*/summary.json")]) == 3, said
        shutil.rmtree("runs")
