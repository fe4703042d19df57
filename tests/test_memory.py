"""Sizes that cannot fit into memory get one sentence before anything is read, in every command that has sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from PIL import Image

from mixwell.train import errors
from mixwell.train.cli import main
from mixwell.train.errors import RunError, check_memory, enough_memory
from mixwell.train.evaluate import stored
from mixwell.train.runs import read_config

TRAIN = ["train", "folder", "--dataset", "csv", "--model", "mini_resnet", "--epochs", "1", "--device", "cpu",
         "--threads", "1", "--workers", "0", "--policy", "none", "--warmup", "0", "--ema", "0", "--augment", "",
         "--optimizer", "sgd"]  # fmt: skip
SMALLER = "lower --batch_size or --image_size, or add --accumulate 2"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A list of many images with boxes, which are all one small file, on a machine with 8 GiB."""
    monkeypatch.setattr(errors, "memory", lambda: 8 * 2**30)
    for k in range(70):
        Image.new("RGB", (8, 8), (k, 0, 90)).save(tmp_path / f"{k}.png")
    rows = [f"{k % 70}.png,{k % 70 % 2},train,1,1,5,5" for k in range(4200)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label,split,x,y,w,h", *rows]))
    boxes = [f"{k}.png,1,1,5,5,{k % 2}" for k in range(70)]
    (tmp_path / "boxes.csv").write_text("\n".join(["file,x,y,w,h,class_index", *boxes]))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ([*TRAIN, "--val_split", "0.02", "--image_size", "16384", "--batch_size", "64"], SMALLER),
        ([*TRAIN, "--val_split", "0.02", "--image_size", "512", "--batch_size", "4000"], SMALLER),
        ([*TRAIN, "--val_split", "0.02", "--image_size", "2048", "--batch_size", "4000", "--accumulate", "2"], SMALLER),
        (["show", "CutMix", "--size", "4096", "--count", "64", "--images", "DIR"], "lower --size or --count"),
        (["show", "CutMix", "--size", "1024", "--ratios", *["0.5"] * 800], "name fewer --ratios"),
        (
            ["labels", "mini_resnet", "--boxes", "DIR/boxes.csv", "--image_size", "4096"],
            "lower --image_size or --count",
        ),
    ],
    ids=lambda value: " ".join(value[:1] + value[-4:])[:60] if isinstance(value, list) else "",
)
def test_sizes_that_cannot_fit(
    folder: Path, command: list[str], advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("DIR", str(folder)) for word in command]
    words += ["--data", str(folder)] if command[0] in ("train", "labels") else []
    words += ["--out", str(folder / ("run" if command[0] != "show" else "grid.png"))]
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("mixwell: out of memory: lower ") and advice in last and last.endswith(" GiB of 8 GiB)")
    assert not (folder / "run").exists() and not (folder / "grid.png").exists()


def test_evaluation_of_images_that_cannot_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run from a larger machine."""
    run, small = str(folder / "run"), ["--image_size", "8", "--batch_size", "64", "--subset", "128"]
    assert main([*TRAIN, *small, "--val_split", "0.5", "--data", str(folder), "--out", run]) == 0
    config = json.loads((folder / "run" / "config.json").read_text())
    (folder / "run" / "config.json").write_text(json.dumps(config | {"image_size": 4096}))
    for more in ([], ["--suite", "accuracy"]):
        capsys.readouterr()
        assert main(["eval", run, "--split", "val", *more]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("mixwell: out of memory: use a machine or a --device with more memory (")
    config = replace(read_config(Path(run)), image_size=8)
    with pytest.raises(MemoryError, match=r"^64 images of 4096 x 4096 pixels "):
        stored(replace(config, eval_size=4096), Path(run), "val")
    model, images, _ = stored(replace(config, image_size=4096, eval_size=8), Path(run), "val")
    assert len(images) == 64 and model(torch.zeros(1, 3, 8, 8)).shape == (1, 2)  # the training size does not count


def test_sentence_of_python_and_torch() -> None:
    """A lack of memory that only shows when memory is allocated gets the same advice; other errors keep theirs."""
    assert 2**28 < errors.memory() < 2**60
    check_memory(100, 224)
    for allocate in (lambda: bytearray(2**62), lambda: torch.empty(2**60)):
        with pytest.raises(RunError, match=r"^out of memory: lower x$"), enough_memory("lower x"):
            allocate()
    with pytest.raises(RuntimeError, match="shape"), enough_memory():
        torch.ones(2).view(3)
