"""Run directories that are damaged, or in use by another process: one sentence each, and nothing is written."""

from __future__ import annotations

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
from safetensors.torch import load_file, save_file

from mixwell.train import checkpoint, runs
from mixwell.train.cli import main
from mixwell.train.errors import RunError
from mixwell.train.lock import locked

EPOCHS = 2
ARGS = ["train", "digits", "--epochs", str(EPOCHS), "--subset", "40", "--batch_size", "20", "--image_size", "8"]
ARGS += ["--threads", "1", "--device", "cpu", "--ema", "0.5"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main([*ARGS, "--out", str(run)]) == 0
    return run


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def changed(file: Path, **entries: object) -> None:
    """Replace entries of ``state.pt``; None removes one."""
    state = torch.load(file, weights_only=True) | entries
    torch.save({name: value for name, value in state.items() if value is not None or name not in entries}, file)


def weights(file: Path, change) -> None:
    state = load_file(file)
    change(state)
    save_file(state, file)


def folder_instead(file: Path) -> None:
    file.unlink()
    file.mkdir()


STATE, WEIGHTS = f"checkpoint/epoch-{EPOCHS:05d}/state.pt", f"checkpoint/epoch-{EPOCHS:05d}/model.safetensors"


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        (STATE, lambda f: f.write_bytes(f.read_bytes()[:1000]), "cannot read the checkpoint"),
        (
            STATE,
            lambda f: torch.save({"config": Hostile(f.parent.parent.parent / "harm")}, f),
            "would have to run code",
        ),
        (STATE, lambda f: torch.save([1], f), "state.pt is damaged"),
        (STATE, folder_instead, "cannot read the checkpoint"),
        *((STATE, lambda f, k=k: changed(f, **{k: None}), f"no entry '{k}'") for k in sorted(checkpoint.KEYS)),
        (STATE, lambda f: changed(f, config=3), "state.pt is damaged"),
        (STATE, lambda f: changed(f, history=[{"epoch": 1}]), "no entry 'images_per_second'"),
        (STATE, lambda f: changed(f, history=7), "state.pt is damaged"),
        (STATE, lambda f: changed(f, optimizer={"state": {}}), "state.pt is damaged"),
        (STATE, lambda f: changed(f, random=[{}]), "state.pt is damaged"),
        (STATE, lambda f: changed(f, loader=torch.zeros(3)), "state.pt is damaged"),
        (STATE, lambda f: changed(f, average={"x": torch.zeros(3)}), "state.pt is damaged"),
        (WEIGHTS, lambda f: f.write_bytes(b"{"), "cannot read the weights"),
        (WEIGHTS, lambda f: weights(f, lambda s: s.popitem()), "1 differ in name or shape, such as "),
        (WEIGHTS, lambda f: weights(f, lambda s: s.update(x=torch.zeros(1))), "1 differ in name or shape, such as x"),
        (WEIGHTS, lambda f: weights(f, lambda s: s.update({"model.fc.bias": torch.zeros(3)})), "such as model.fc.bias"),
        (WEIGHTS, folder_instead, "no weights at"),
        ("config.json", lambda f: f.write_bytes(b"\xff\xfe"), "it is not UTF-8 text"),
        ("config.json", lambda f: f.write_text("[1]"), "config.json: the config must be a JSON object"),
        ("config.json", lambda f: f.write_text(f.read_text().replace("0.05", "NaN")), "lr must be a number"),
        ("config.json", folder_instead, "is a directory"),
        ("lock", folder_instead, "cannot start a run in"),
        ("metrics.jsonl", folder_instead, "metrics.jsonl"),
    ],
)
def test_damaged_files_are_one_sentence(name: str, damage, sentence: str, undisturbed: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    damage(run / name)
    assert main(["train", "--resume", str(run)]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "weights_only" not in said and said.count("\n") == 1, said
    assert not (run / "harm").exists()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("metrics.jsonl", b"\xff", "it is not UTF-8 text"),
        ("metrics.jsonl", b'{"epoch": "1", "train_loss": 1, "seconds": 1}', "epoch in line 1 of "),
        ("metrics.jsonl", b'{"epoch": 1, "train_loss": NaN, "seconds": 1}', "train_loss in line 1 of "),
        ("metrics.jsonl", b'{"epoch": 1, "train_loss": 1}', "has no seconds"),
        ("metrics.jsonl", b"[1]", "must be a JSON object"),
        ("summary.json", b"\xff", "it is not UTF-8 text"),
        ("summary.json", b"[]", "must be a JSON object"),
        ("summary.json", b'{"test": 5}', "test in "),
        ("summary.json", b'{"environment": "x"}', "environment in "),
        ("summary.json", None, "is a directory"),
        ("metrics.jsonl", None, "is a directory"),
    ],
)
def test_damaged_results_are_one_sentence(name: str, content: bytes | None, sentence: str, undisturbed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    folder_instead(run / name) if content is None else (run / name).write_bytes(content)
    with pytest.raises(RunError, match=sentence) as error:
        runs.read(run)
    assert "\n" not in str(error.value)


def test_one_run_owns_its_directory(undisturbed: Path, tmp_path: Path, capsys):
    """A second run into the same directory is refused while the first one goes on, and writes nothing."""
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"}
    with locked(run):
        assert main(["train", "--resume", str(run)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"mixwell: process {os.getpid()} on ") and f"is training in {run}" in said
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.name != "lock"} == before
    assert main(["train", "--resume", str(run)]) == 0


@pytest.mark.skipif(os.name != "posix", reason="forks and kills")
def test_a_dead_process_keeps_no_lock(tmp_path: Path):
    """Neither does a worker that it has forked, and that outlives it."""
    code = (
        "import os, time, pathlib\nfrom mixwell.train.lock import locked\n"
        f"with locked(pathlib.Path({str(tmp_path)!r})):\n"
        "    worker = os.fork()\n    print(worker, flush=True) if worker else None\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        try:
            with pytest.raises(RunError, match=f"process {process.pid} on "), locked(tmp_path):
                pass
            process.kill()
            process.wait()
            os.kill(worker, 0)  # it is still there
            with locked(tmp_path):
                pass
        finally:
            os.kill(worker, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_a_process_that_ends_ends_the_others(tmp_path: Path):
    """Each process of the run says why in one line, with its rank and the command that resumes the run."""
    run = tmp_path / "run"
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(random.Random().randint(20_000, 60_000)), "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "mixwell", *ARGS, "--epochs", "1000", "--out", str(run)]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env=os.environ | place | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]  # fmt: skip
    deadline = time.monotonic() + 300
    while checkpoint.latest(run) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 143]
    again = rf"epoch \d+ is saved; resume with: torchrun --nproc-per-node 2 -m mixwell train --resume {run}"
    assert re.fullmatch(f"mixwell: rank 0 of 2: another process has ended: {again}", said[0].strip())
    assert re.fullmatch(f"mixwell: rank 1 of 2: stopped: {again}", said[1].strip())
