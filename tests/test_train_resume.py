"""Runs that are killed, stopped or out of disk, then resumed: each must end as the undisturbed one, bit for bit."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from safetensors.torch import load_file

from mixwell.train import checkpoint, display
from mixwell.train.cli import main
from mixwell.train.config import Config

EPOCHS = 4
TINY = ["--subset", "60", "--batch_size", "20", "--image_size", "8", "--threads", "1", "--device", "cpu"]
# Everything that has a state: momentum, moving average, uncertainty head, accumulation, order, augmentation, mixing.
STATEFUL = ["--policy", "CutMix(alpha=1)", "--method", "SUMix", "--ema", "0.9", "--accumulate", "2", "--clip", "1"]
ARGS = ["train", "digits", "--epochs", str(EPOCHS), *TINY, *STATEFUL]
TIMES = {"seconds", "images_per_second"}


class Killed(BaseException):
    """Ends the code under test on the spot, as a kill would."""


def metrics(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def same(run: Path, other: Path) -> None:
    """Compare all weights, the optimiser's and method's state, and all metrics but times, exactly."""
    assert metrics(run) == metrics(other)
    files = ["model.safetensors", f"checkpoint/epoch-{EPOCHS:05d}/model.safetensors"]
    for mine, theirs in ((load_file(run / file), load_file(other / file)) for file in files):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert all((run / file).read_bytes() == (other / file).read_bytes() for file in files)
    mine, theirs = (torch.load(r / f"checkpoint/epoch-{EPOCHS:05d}/state.pt", weights_only=True) for r in (run, other))
    for part in ("optimizer", "random", "loader", "average"):
        assert repr(mine[part]) == repr(theirs[part])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main([*ARGS, "--out", str(run)]) == 0
    assert len(metrics(run)) == EPOCHS
    return run


@pytest.mark.slow
def test_kill_at_any_moment(undisturbed: Path, tmp_path: Path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "mixwell.train.cli", *ARGS, "--out", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 300
    while not (run / "config.json").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(random.Random().uniform(0, 0.5))  # a moment of its own in every run of this test
    process.kill()
    process.wait()
    assert main(["train", "--resume", str(run)]) == 0
    same(run, undisturbed)


# Everything of theirs that has a state: teacher, block with a group of its own, second head, steps, schedules, chances.
SCHEDULES = "momentum=Momentum(base=0.5, end=0.9, warm=0.1), buffers='average', block_group={'lr': 0.2}"
LEARNED = {
    "AutoMix": f"AutoMix(mask_weight=Cosine(1.0, 0.1), mask_adjust=0.5, block_p=0.5, {SCHEDULES})",
    "SAMix": f"SAMix(mask_weight=Cosine(1.0, 0.1), block_p=Cosine(0.9, 0.3), {SCHEDULES})",
    "AdAutoMix": f"AdAutoMix(random_sources=True, beta=Cosine(0.9, 0.1), {SCHEDULES})",
}
RAMP = "MixUp(scope='sample', alpha=Linear(0.2, 2.0))"


def train_and_die(args: list[str]) -> None:
    """Train until the middle of the third epoch, and end there without a last word."""
    steps = []

    def step(self: display.Display, images: int) -> None:
        steps.append(images)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGKILL)

    display.Display.step = step
    main(args)


@pytest.mark.parametrize(
    "name", ["AutoMix", *(pytest.param(n, marks=pytest.mark.slow) for n in LEARNED if n != "AutoMix")]
)
def test_a_killed_block_goes_on(name: str, tmp_path: Path):
    """Killed in the middle of an epoch, a training of a block ends bit-equal, the file of its block included."""
    args = ["train", "digits", "--epochs", str(EPOCHS), *TINY, "--policy", RAMP, "--method", LEARNED[name]]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert main([*args, "--out", str(whole)]) == 0
    process = multiprocessing.get_context("fork").Process(target=train_and_die, args=([*args, "--out", str(run)],))
    process.start()
    process.join(300)
    assert process.exitcode == -signal.SIGKILL and checkpoint.epochs(checkpoint.latest(run)) == 2
    assert main(["train", "--resume", str(run)]) == 0
    same(run, whole)
    mine, theirs = (load_file(path / "mask.safetensors") for path in (run, whole))
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    state = load_file(run / f"checkpoint/epoch-{EPOCHS:05d}/model.safetensors")
    assert state["_extra_state"].flatten()[0] == 1.0  # the progress, by which schedules go on
    parts = {key.partition(".")[0] for key in state}
    assert parts == {"model", "block", "teacher", "heads", "_extra_state"}


def test_ctrl_c(undisturbed: Path, tmp_path: Path, monkeypatch, capsys):
    run, steps = tmp_path / "run", []

    def step(self: display.Display, images: int) -> None:
        steps.append(images)
        if len(steps) == 8:  # in the third epoch
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(display.Display, "step", step)
    assert main([*ARGS, "--out", str(run)]) == 130
    said = capsys.readouterr().err.strip()
    assert said == f"mixwell: stopped: epoch 2 is saved; resume with: mixwell train --resume {run}"
    assert main(["train", *said.split()[-2:]]) == 0
    same(run, undisturbed)


@pytest.mark.parametrize("epochs", [1, EPOCHS])
def test_a_kill_right_after_the_last_checkpoint(epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The classifier that is written last is that of the last epoch, although no epoch is left to train."""
    args = [*ARGS[:3], str(epochs), *ARGS[4:]]
    whole, run, written = tmp_path / "whole", tmp_path / "run", Path.replace
    assert main([*args, "--out", str(whole)]) == 0

    def killed(path: Path, target: Path) -> Path:
        if target == run / "model.safetensors" and checkpoint.epochs(checkpoint.latest(run)) == epochs:
            raise Killed
        return written(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(Killed):
            main([*args, "--out", str(run)])
    assert main(["train", "--resume", str(run)]) == 0
    shipped = [(path / "model.safetensors").read_bytes() for path in (run, whole)]
    assert shipped[0] == shipped[1] and not list(run.glob("*.part"))
    assert metrics(run) == metrics(whole)


def test_ctrl_c_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """There is a word also where nothing has been started."""

    def stopped(text: str) -> Config:
        raise KeyboardInterrupt

    monkeypatch.setattr(Config, "read", stopped)
    (tmp_path / "config.json").write_text("{}")
    assert main(["eval", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "\nmixwell: stopped\n"


def test_full_disk(undisturbed: Path, tmp_path: Path, monkeypatch, capsys):
    run, real = tmp_path / "run", checkpoint.write_through

    def full(path: Path, content: bytes) -> None:
        if (run / "checkpoint" / "epoch-00002").exists() and path.parent.name == "part":
            real(path, content[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_through", full)
        assert main([*ARGS, "--out", str(run)]) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1
        and "no space left" in said
        and f"epoch 2 is saved; resume with: mixwell train --resume {run}" in said
    )
    assert [path.name for path in (run / "checkpoint").iterdir()] == ["epoch-00002"]
    assert main(["train", "--resume", str(run)]) == 0
    same(run, undisturbed)


def test_a_run_without_checkpoint_starts_over(undisturbed: Path, tmp_path: Path):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(undisturbed / "config.json", run)
    assert main(["train", "--resume", str(run)]) == 0
    same(run, undisturbed)


OPERATIONS = [(os, "fsync"), (Path, "mkdir"), (Path, "rename"), (Path, "replace"), (Path, "open"), (shutil, "rmtree")]


def test_kill_before_every_file_operation(tmp_path: Path, monkeypatch):
    """A checkpoint is whole and either the old or the new one, wherever saving ends."""
    config = Config()
    state = dict.fromkeys(checkpoint.KEYS) | {"config": config.json()}
    seen = set()
    for fatal in range(100):
        run, count = tmp_path / str(fatal), 0
        checkpoint.save(run, 1, {"w": torch.ones(9)}, state | {"epoch": 1})

        def counted(real, fatal=fatal):
            def operation(*args, **kwargs):
                nonlocal count
                count += 1
                if count == fatal:
                    raise Killed
                return real(*args, **kwargs)

            return operation

        with monkeypatch.context() as patch:
            for owner, name in OPERATIONS:
                patch.setattr(owner, name, counted(getattr(owner, name)))
            try:
                checkpoint.save(run, 2, {"w": torch.full((9,), 2.0)}, state | {"epoch": 2})
            except Killed:
                finished = False
            else:
                finished = count < fatal
        folder = checkpoint.latest(run)
        weights, loaded = checkpoint.read_weights(folder / "model.safetensors"), checkpoint.load(folder, config)
        assert loaded["epoch"] == checkpoint.epochs(folder) == weights["w"].unique().item()
        checkpoint.save(run, 3, {"w": torch.ones(9)}, state | {"epoch": 3})  # what was left lying about is no obstacle
        assert checkpoint.epochs(checkpoint.latest(run)) == 3
        seen.add(checkpoint.epochs(folder))
        if finished:
            break
    assert finished
    assert seen == {1, 2}


def test_another_recipe_or_config_is_refused(undisturbed: Path, tmp_path: Path, capsys):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for args, sentence in [
        (["cifar100_mini", "--resume", str(run)], "holds a run of recipe 'digits', not of 'cifar100_mini'"),
        (["--resume", str(run), "--lr", "0.2"], "lr is 0.05, not 0.2: start a new run"),
        (["--resume", str(run), "--out", "x"], "remove --out"),
        (["--resume", str(tmp_path / "none")], "no run in"),
        (["digits", "--out", str(run)], "already holds a run"),
    ]:
        assert main(["train", *args]) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
    text = (run / "config.json").read_text()
    (run / "lock").unlink()
    for old, new, sentence in [
        ('"digits"', '"other"', "checkpoint of recipe 'digits'"),
        ("0.05", "0.07", "lr is 0.05"),
    ]:
        (run / "config.json").write_text(text.replace(old, new, 1))
        assert main(["train", "--resume", str(run)]) == 2
        assert sentence in capsys.readouterr().err


def test_a_finished_run_stays_as_it_is(undisturbed: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    assert main(["train", "--resume", str(run), "--device", "cpu"]) == 0
    same(run, undisturbed)
    assert json.loads((run / "summary.json").read_text())["command"].endswith(str(undisturbed))
