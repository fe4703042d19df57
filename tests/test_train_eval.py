"""`mixwell eval` and `--resume` on data that is not what the run was trained on, and on damaged files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
import safetensors.torch
from PIL import Image
from torch import nn

from mixwell import Normalization
from mixwell.train import build, checkpoint
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet, Split
from mixwell.train.errors import RunError

COLOURS = {"ant": (250, 0, 0), "bee": (0, 250, 0), "cat": (0, 0, 250)}
TRAIN = ["train", "folder", "--model", "mini_resnet", "--image_size", "16", "--batch_size", "6", "--workers", "0",
         "--policy", "none", "--epochs", "4", "--lr", "0.1", "--device", "cpu", "--threads", "1",
         "--optimizer", "sgd", "--warmup", "0", "--ema", "0", "--augment", "", "--erasing", "0"]  # fmt: skip

Say = Callable[..., tuple[int, str, str]]


def tree(root: Path, names: dict[str, str], splits: tuple[str, ...] = ("train", "val"), count: int = 6) -> Path:
    """Write images whose colour is that of ``names[folder]``."""
    generator = np.random.default_rng(0)
    for split in splits:
        for folder, name in names.items():
            (root / split / folder).mkdir(parents=True)
            for n in range(count):
                noise = generator.integers(-5, 6, (16, 16, 3))
                pixels = (np.array(COLOURS[name]) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / folder / f"{n}.png")
    return root


def same() -> dict[str, str]:
    return {name: name for name in COLOURS}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that has learnt to tell the colours, and its data."""
    folder = tmp_path_factory.mktemp("trained")
    data = tree(folder / "data", same())
    assert main([*TRAIN, "--data", str(data), "--out", str(folder / "run")]) == 0
    summary = json.loads((folder / "run" / "summary.json").read_text())
    assert summary["test"]["top1"] == 100 and summary["skipped_files"] == {} and summary["bad_images"] == 0
    return folder / "run", data


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Return a function that runs a command and returns its status and what it wrote."""

    def run(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        said = capsys.readouterr()
        assert said.err.count("\n") <= 1 and "Traceback" not in said.err
        return status, said.out, said.err

    return run


def test_classes_are_read_by_name(trained: tuple[Path, Path], tmp_path: Path, say: Say) -> None:
    run, _ = trained
    only = tree(tmp_path / "only", same(), ("test",))  # a folder with test alone is enough
    assert "top-1  100.00 %" in say("eval", run, "--data", only)[1]
    assert say("eval", run, "--data", only, "--split", "val")[0] == 0  # the test images stand in
    renamed = tree(tmp_path / "renamed", {"ant": "bee", "bee": "cat", "cat": "ant"}, ("test",))
    assert "top-1    0.00 %" in say("eval", run, "--data", renamed)[1]  # the folders say so
    for names, words in [
        ({"ant": "ant", "bee": "bee"}, "class 'cat' is missing"),
        (same() | {"dog": "cat"}, "class 'dog' is new"),
        ({"Ant": "ant", "bee": "bee", "cat": "cat"}, "class 'ant' is missing, class 'Ant' is new"),
        ({"x": "ant", "y": "bee", "z": "cat"}, "classes 'ant', 'bee', 'cat' are missing"),
    ]:
        data = tree(tmp_path / words, names, ("train", "test"))
        status, out, err = say("eval", run, "--data", data)
        assert (status, out) == (2, "") and f"the images have other classes than the model: {words}" in err


def test_classes_in_another_order(trained: tuple[Path, Path], tmp_path: Path, say: Say) -> None:
    """A classifier whose outputs are in an order of their own, with their names, scores the same."""
    run = shutil.copytree(trained[0], tmp_path / "run")
    path = run / "model.safetensors"
    weights, order = safetensors.torch.load_file(path), [2, 0, 1]
    for name in ("fc.weight", "fc.bias"):
        weights[name] = weights[name][order]
    names = [list(COLOURS)[i] for i in order]
    path.write_bytes(checkpoint.weights(weights, {"model": "mini_resnet", "classes": names}))
    assert "top-1  100.00 %" in say("eval", run)[1]


def test_resume_compares_the_data(tmp_path: Path, say: Say) -> None:
    data, run = tree(tmp_path / "data", same()), tmp_path / "run"
    assert main([*TRAIN, "--data", str(data), "--out", str(run)]) == 0
    config = json.loads((run / "config.json").read_text())
    kept = shutil.copytree(data, tmp_path / "kept")
    assert say("train", "--resume", run, "--data", kept)[0] == 0  # another place is fine

    def refused(words: str) -> None:
        status, _, err = say("train", "--resume", run, "--data", data)
        assert status == 2 and "the data set has changed since the run began: " in err and words in err

    (data / "train" / "ant" / "0.png").unlink()
    refused("class 'ant' has 5 train images, 6 before")
    for split in ("train", "val"):
        (data / split / "ant").rename(data / split / "eel")
    refused("class 'ant' is missing, class 'eel' is new")
    for split in ("train", "val"):
        (data / split / "eel").rename(data / split / "zebra")
    refused("class 'ant' is missing, class 'zebra' is new")
    assert json.loads((run / "config.json").read_text()) == config | {"data": str(kept)}  # nothing was written


def break_shape(run: Path) -> None:
    weights = safetensors.torch.load_file(run / "model.safetensors")
    weights["fc.weight"] = weights["fc.weight"][:2]
    (run / "model.safetensors").write_bytes(
        checkpoint.weights(weights, {"model": "mini_resnet", "classes": list(COLOURS)})
    )


def break_name(run: Path) -> None:
    weights = safetensors.torch.load_file(run / "model.safetensors")
    weights["other"] = weights.pop("fc.weight")
    (run / "model.safetensors").write_bytes(
        checkpoint.weights(weights, {"model": "mini_resnet", "classes": list(COLOURS)})
    )


def folder_instead(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).mkdir()


def card(run: Path, metadata: dict[str, str] | None) -> None:
    weights = safetensors.torch.load_file(run / "model.safetensors")
    safetensors.torch.save_file(weights, run / "model.safetensors", metadata)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda run: (run / "model.safetensors").unlink(), "no weights at"),
    "empty model": (lambda run: (run / "model.safetensors").write_bytes(b""), "cannot read the weights in"),
    "cut model": (
        lambda run: (run / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes()[:-9]),
        "cannot read the weights in",
    ),
    "text model": (lambda run: (run / "model.safetensors").write_text("x" * 99), "cannot read the weights in"),
    "folder model": (lambda run: folder_instead(run, "model.safetensors"), "no weights at"),
    "shape": (break_shape, "do not fit the model: 1 differ in name or shape, such as fc.weight"),
    "names": (break_name, "do not fit the model: 2 differ in name or shape, such as fc.weight"),
    "foreign": (lambda run: card(run, None), "holds no class names"),
    "foreign card": (lambda run: card(run, {"mixwell": "[1]"}), "holds no class names"),
    "broken card": (lambda run: card(run, {"mixwell": "{"}), "holds no class names"),
    "wrong card": (lambda run: card(run, {"mixwell": '{"classes": [1, 2, 3]}'}), "holds no class names"),
    "config not UTF-8": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe{"), "it is not UTF-8 text"),
    "config folder": (lambda run: folder_instead(run, "config.json"), "config.json: is a directory"),
    "config empty": (lambda run: (run / "config.json").write_bytes(b""), "not JSON"),
    "config list": (lambda run: (run / "config.json").write_text("[]"), "must be a JSON object"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runs_are_one_sentence(trained: tuple[Path, Path], tmp_path: Path, name: str, say: Say) -> None:
    run = shutil.copytree(trained[0], tmp_path / "run")
    damage, words = DAMAGE[name]
    damage(run)
    status, out, err = say("eval", run)
    assert (status, out) == (2, "") and words in err


def test_eval_gives_advice_about_its_own_options(
    trained: tuple[Path, Path], tmp_path: Path, say: Say, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch larger than the folder is no mistake, and a bad image is skipped on request."""
    run, _ = trained
    data = tree(tmp_path / "data", same(), ("test",), count=1)
    assert say("eval", run, "--data", data)[0] == 0
    (data / "test" / "ant" / "0.png").write_bytes(b"")
    status, _, err = say("eval", run, "--data", data)
    assert status == 2 and "0.png: it is empty, damaged" in err and "--bad_images skip" in err
    status, out, err = say("eval", run, "--data", data, "--bad_images", "skip", "--json")
    assert status == 0 and json.loads(out)["images"] == 2 and "skipped the image" in err
    assert not (run / "bad_images.txt").exists()
    assert "expected a whole number between 1 and 1000" in say("eval", run, "--bins", 0)[2]
    for path in data.rglob("*.png"):
        path.write_bytes(b"")
    assert main(["eval", str(run), "--data", str(data), "--bad_images", "skip"]) == 2
    assert capsys.readouterr().err.endswith("there are no images to measure the classifier on\n")


def test_a_run_says_what_it_skips(tmp_path: Path, say: Say) -> None:
    data = tree(tmp_path / "data", same())
    (data / "train" / "ant" / "0.png").write_bytes(b"damaged")
    (data / "train" / "bee" / "x.heic").write_bytes(b"")
    (data / "val" / ".cache").mkdir()
    (data / "val" / ".cache" / "0.png").write_bytes(b"")
    status, _, err = say(*TRAIN, "--epochs", 1, "--data", data, "--out", tmp_path / "stop")
    assert status == 2 and f"cannot read the image {data / 'train' / 'ant' / '0.png'}" in err
    assert (tmp_path / "stop" / "bad_images.txt").read_text().startswith(str(data / "train" / "ant" / "0.png"))
    status, out, err = say("train", "--resume", tmp_path / "stop", "--bad_images", "skip")
    assert status == 0 and "skipped 2 files that are not images: 1 .heic, 1 hidden" in out
    assert "skipped the image" in err
    summary = json.loads((tmp_path / "stop" / "summary.json").read_text())
    assert summary["skipped_files"] == {"hidden": 1, ".heic": 1} and summary["bad_images"] == 1
    assert len((tmp_path / "stop" / "bad_images.txt").read_text().splitlines()) == 1


def test_one_training_folder_is_enough(tmp_path: Path, say: Say) -> None:
    data, run = tree(tmp_path / "data", same(), ("train",)), tmp_path / "run"
    assert "--val_split 0.1" in say(*TRAIN, "--data", data, "--out", run)[2] and not run.exists()
    assert say(*TRAIN, "--epochs", 1, "--val_split", 0.34, "--data", data, "--out", run)[0] == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["images"] == {"train": 12, "val": 6, "test": 6}
    assert summary["validated_on"] == "held-out images"
    assert say("eval", run)[1].startswith(f"{run} on 6 test images")
    status, _, err = say(*TRAIN, "--val_split", 0.9, "--data", data, "--out", tmp_path / "other")
    assert status == 2 and "batch_size 6 exceeds the 3 training images" in err and not (tmp_path / "other").exists()


def test_home_folder_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Say) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tree(tmp_path / "data", same())
    assert say(*TRAIN, "--epochs", 1, "--data=~/data", "--out=~/run")[0] == 0
    assert say(*TRAIN, "--epochs", 1, "--data=~/data", "--out=~/b", "--weights=~/run/model.safetensors")[0] == 0
    assert say("eval", "~/run", "--data", "~/data")[0] == 0
    assert say("train", "--resume", "~/run")[0] == 0
    assert say("check", "~/data")[0] == 0
    assert not (tmp_path / "~").exists()
    assert "cannot find the home directory" in say("train", "--resume", "~nobody_of_that_name/run")[2]


# Weights of other programs.


def network() -> nn.Module:
    torch.manual_seed(1)
    return build.classifier(Config(image_size=16), three_classes())


def three_classes() -> DataSet:
    split = Split(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), torch.arange(3))
    return DataSet(split, split, split, list(COLOURS), 3, Normalization(0.5, 0.5))


PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.net."]
INSIDE = ["", "state_dict", "model_state_dict", "model", "weights", "some_name"]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("inside", INSIDE)
def test_weights_in_a_checkpoint_with_a_prefix(tmp_path: Path, prefix: str, inside: str) -> None:
    theirs = network().state_dict()
    content: dict[str, object] = {prefix + name: value for name, value in theirs.items()}
    if inside:
        optimizer = torch.optim.SGD(network().parameters(), 0.1).state_dict()
        content = {"epoch": 3, "optimizer": optimizer, "optimizer_state_dict": optimizer, inside: content}
        if inside != "some_name":  # the usual names are those of the model, whatever else is there
            content |= {"statistics": {"mean": torch.zeros(3)}}
    torch.save(content, tmp_path / "weights.pth")
    torch.manual_seed(2)
    model = build.classifier(Config(image_size=16, weights=str(tmp_path / "weights.pth")), three_classes())
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())


def test_averaged_model(tmp_path: Path) -> None:
    theirs = network()
    torch.save(torch.optim.swa_utils.AveragedModel(theirs).state_dict(), tmp_path / "swa.pth")
    model = build.classifier(Config(image_size=16, weights=str(tmp_path / "swa.pth")), three_classes())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "got a list"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "got a dictionary with 'epoch', 'optimizer'"),
        ({"a": {"x": torch.zeros(1)}, "b": {"x": torch.zeros(1)}}, "got a dictionary with 'a', 'b'"),
        ({}, "got a dict"),
        ({"state_dict": {"encoder.weight": torch.zeros(1)}}, "do not fit the model"),
        ({"module.conv1.weight": torch.zeros(1)}, "do not fit the model"),
    ],
)
def test_files_without_weights(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(RunError, match=words):
        build.classifier(Config(image_size=16, weights=str(tmp_path / "weights.pth")), three_classes())
