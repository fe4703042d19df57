"""Streams in two processes: each image once in an epoch, exact metrics, and the same end after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

import test_train_streams

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
from mixwell.train import checkpoint, loop
from mixwell.train.cli import main
from steps import free_port
from test_train_resume import EPOCHS, metrics, same
from test_train_streams import FORMATS, PACKAGES, Format

offline = test_train_streams.offline  # a fixture
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="forks")]
TRAIN, VAL = [[*range(start, start + 6)] for start in (0, 6, 12, 18)], [[*range(7)], [*range(7, 13)]]
WORDS = ["train", "folder", "--model", "mini_resnet", "--image_size", "8", "--batch_size", "8", "--accumulate", "2",
         "--epochs", str(EPOCHS), "--optimizer", "sgd", "--warmup", "0", "--ema", "0.5", "--augment", "",
         "--erasing", "0", "--weights", "", "--device", "cpu", "--threads", "1", "--workers", "0", "--scale", "0.9",
         "--policy", "MixUp()"]  # fmt: skip


def train(words: list[str], seen: Path, place: dict[str, Any], last: int) -> None:
    """Train in one process, and write the numbers of the images of each batch into a file; die in the given batch."""
    os.environ.update({name: str(value) for name, value in place.items()})
    predict, count = loop.Training.predict, 0

    def noted(self: loop.Training, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)
        numbers = (self.data.normalization.pixels(images)[:, 0] * 25.5).mean((1, 2)).round().int().tolist()
        assert labels.tolist() == [number % 3 for number in numbers]
        with seen.open("a") as file:
            file.write(json.dumps([len(self.history), numbers]) + "\n")
        return predict(self, images, labels)

    loop.Training.predict = noted
    os._exit(main(words))  # gloo's threads outlive DistributedDataParallel


def run(words: list[str], notes: Path, world: int, last: int = 0) -> list[dict[int, list[int]]]:
    """Train in some processes; return the numbers of the images that each has seen, by epoch."""
    notes.mkdir()
    place = {"WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        get_context("fork").Process(
            target=train, args=(words, notes / str(rank), place | {"RANK": rank, "LOCAL_RANK": rank}, last)
        )
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(300)
    assert last or [process.exitcode for process in ranks] == [0] * world
    found: list[dict[int, list[int]]] = []
    for rank in range(world):
        found.append({})
        for line in (notes / str(rank)).read_text().splitlines():
            epoch, numbers = json.loads(line)
            found[-1].setdefault(epoch, []).extend(numbers)
    return found


def check_epochs(seen: list[dict[int, list[int]]], epochs: range) -> None:
    """Every process has seen as many images as the others, and each image of the stream has been seen once."""
    for epoch in epochs:
        assert {len(rank[epoch]) for rank in seen} == {24 // len(seen)}
        assert Counter(number for rank in seen for number in rank[epoch]) == Counter(range(24))
    assert all(rank.keys() == set(epochs) for rank in seen)


@pytest.mark.parametrize("make", FORMATS)
def test_two_processes(tmp_path: Path, make: Format, capfd: pytest.CaptureFixture[str]) -> None:
    if package := PACKAGES.get(make.__name__):
        pytest.importorskip(package, reason=f"{package} is not installed")
    for split, shards in (("train", TRAIN), ("val", VAL)):
        make(tmp_path / "set", split, shards)
    words = [*WORDS, "--dataset", make.__name__, "--data", str(tmp_path / "set"), "--out"]
    whole, killed, alone = (tmp_path / name for name in ("whole", "killed", "alone"))

    check_epochs(run([*words, str(whole)], tmp_path / "notes-whole", 2), range(EPOCHS))
    assert json.loads((whole / "summary.json").read_text())["environment"]["processes"] == 2
    capfd.readouterr()
    assert main(["eval", str(whole), "--json"]) == 0
    measured, last = json.loads(capfd.readouterr().out.splitlines()[-1]), metrics(whole)[-1]
    assert measured["images"] == 13
    assert {name: measured[name] for name in ("top1", "loss", "ece")} == pytest.approx(
        {name: last[f"ema_{name}"] for name in ("top1", "loss", "ece")}, rel=1e-5
    )

    run([*words, str(killed)], tmp_path / "notes-killed", 2, last=9)  # in the middle of the second epoch of 6 batches
    folder = checkpoint.latest(killed)
    assert folder and checkpoint.epochs(folder) == 1
    shutil.copytree(killed, alone)
    check_epochs(run(["train", "--resume", str(killed)], tmp_path / "notes-resumed", 2), range(1, EPOCHS))
    same(killed, whole)
    check_epochs(run(["train", "--resume", str(alone)], tmp_path / "notes-alone", 1), range(1, EPOCHS))
    assert "processes: 1 here, 2 before: other batches, other random numbers" in capfd.readouterr().err
