"""The command line: the files of a run, what options do, and the messages for mistakes."""

from __future__ import annotations

import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from safetensors import safe_open
from torch import nn

import mixwell
import mixwell.train
from mixwell.train import build, cli, runs
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.recipes import BASES, RECIPES, TRAININGS
from mixwell.train.summary import Summary

TINY = ["--subset", "40", "--batch_size", "20", "--image_size", "8", "--device", "cpu"]


def run(out: Path, *args: str, code: int = 0) -> Path:
    assert main(["train", "digits", "--epochs", "2", *TINY, "--out", str(out), *args]) == code
    return out


def records(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_what_a_run_leaves_behind(tmp_path, capsys):
    out = run(
        tmp_path / "run", "--policy", "CutMix(alpha=1.0)", "--method", "SUMix", "--val-split=0.5", "--epochs", "12"
    )
    said = capsys.readouterr().out.splitlines()
    assert (
        len(said) == 13
        and said[0].startswith("epoch  1/12  train_loss ")
        and "images/s" in said[0]
        and "left" in said[0]
    )
    history = records(out)
    assert [record["epoch"] for record in history] == list(range(1, 13))
    needed = {
        "train_loss",
        "val_top1",
        "val_loss",
        "val_ece",
        "lr",
        "seconds",
        "images_per_second",
        "train_regulariser",
    }
    assert all(needed <= record.keys() and all(map(math.isfinite, record.values())) for record in history)
    summary = json.loads((out / "summary.json").read_text())
    top1 = [record["val_top1"] for record in history]
    assert summary["val_top1"] == {
        "last": top1[-1], "best": max(top1), "best_epoch": 1 + top1.index(max(top1)),
        "median_last_10": statistics.median(top1[-10:]),
    }  # fmt: skip
    assert summary["validated_on"] == "held-out images"
    assert summary["images"] == {"train": 20, "val": 20, "test": 897}
    assert (summary["policy"], summary["method"], summary["seed"]) == ("CutMix()", "SUMix", 0)
    assert summary["command"].startswith("mixwell train digits --epochs 2 --subset 40")
    assert {"python", "torch", "device", "threads", "commit"} <= summary["environment"].keys()
    assert list((out / "tensorboard").glob("events*")) and (out / "config.json").is_file()
    with safe_open(out / "model.safetensors", "pt") as file:
        assert "fc.weight" in file.keys() and json.loads(file.metadata()["mixwell"])["model"] == "mini_resnet"  # noqa: SIM118
    assert main(["eval", str(out), "--json"]) == 0
    measures = json.loads(capsys.readouterr().out)
    assert measures == pytest.approx(summary["test"] | {"images": 897}, rel=1e-9)
    assert main(["eval", str(out), "--split", "val", "--bins", "15"]) == 0
    assert "on 20 val images" in capsys.readouterr().out


def test_tensorboard_holds_the_metrics(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = run(tmp_path / "run")
    events = reader.EventAccumulator(str(out / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("val/top1")]
    assert found == [(r["epoch"], pytest.approx(r["val_top1"], rel=1e-6)) for r in records(out)]


@pytest.mark.parametrize(
    "args",
    [
        ["--precision", "bf16", "--channels_last"],
        ["--optimizer", "adamw", "--lr", "0.001", "--decay_all", "false", "--warmup", "1"],
        ["--ema", "0.5", "--val_every", "2", "--save_every", "2"],
    ],
    ids=lambda args: args[0][2:],
)
def test_options_train(tmp_path, args):
    plain, other = records(run(tmp_path / "plain")), records(run(tmp_path / "other", *args))
    assert all(math.isfinite(record["train_loss"]) for record in other)
    assert plain[-1]["train_loss"] != other[-1]["train_loss"] or "--ema" in args


def test_accumulated_pieces_are_one_step(tmp_path, monkeypatch):
    """Without batch norm, four pieces give the gradient of the whole batch."""
    monkeypatch.setattr(build, "classifier", lambda config, data: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    weights = []
    for name, pieces in (("whole", "1"), ("pieces", "4")):
        torch.manual_seed(0)
        with safe_open(run(tmp_path / name, "--accumulate", pieces) / "model.safetensors", "pt") as file:
            weights.append(file.get_tensor("1.weight"))
    torch.testing.assert_close(weights[0], weights[1])
    assert (weights[0] - nn.Linear(64, 10).weight).abs().max() > 0.01


def test_compiled_run_equals_eager(tmp_path, monkeypatch, compiler):
    monkeypatch.setattr(build, "classifier", lambda config, data: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    losses = []
    for name in ("eager", "compiled"):
        torch.manual_seed(0)
        out = run(tmp_path / name, "--epochs", "1", "--compile", str(name == "compiled"))
        losses.append(records(out)[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_same_seed_same_numbers(tmp_path):
    runs = [records(run(tmp_path / str(i), "--seed", seed)) for i, seed in enumerate(("1", "1", "2"))]
    losses = [[record["train_loss"] for record in history] for history in runs]
    assert losses[0] == losses[1] != losses[2]


def test_directory_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    run(tmp_path / "file" / "run", code=2)
    assert capsys.readouterr().err == f"mixwell: cannot start a run in {tmp_path / 'file' / 'run'}: Not a directory\n"


def test_a_run_that_diverges(tmp_path, capsys):
    out = run(tmp_path / "run", "--lr", "1e8", "--warmup", "0", code=2)
    assert "in epoch 1: try a smaller --lr, or gradient clipping with --clip 1" in capsys.readouterr().err
    assert not (out / "summary.json").exists() and not (out / "checkpoint").exists()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["train"], "name a recipe ('mixwell recipes' shows all)"),
        (["train", "digit"], "unknown recipe 'digit'; did you mean digits? ('mixwell recipes' shows all)"),
        (["train", "digits", "--epoch", "3"], "unknown setting --epoch; did you mean --epochs?"),
        (["train", "digits", "--los", "3"], "unknown setting --los; did you mean --loss?"),
        (["train", "digits", "--batchsize=3"], "unknown setting --batchsize; did you mean --batch_size?"),
        (["train", "digits", "--learning-rate=3"], "unknown setting --learning_rate (see mixwell train --help)"),
        (["train", "digits", "--epochs", "three"], "argument --epochs: invalid int value: 'three'"),
        (["train", "digits", "--epochs"], "argument --epochs: expected one argument"),
        (["train", "digits", "--flip", "maybe"], "expected true or false, but got 'maybe'"),
        (["train", "digits", "--epochs", "0"], "epochs must be at least 1, but is 0"),
        (["train", "digits", "--policy", "CutMux(alpha=1)"], "did you mean CutMix"),
        (["train", "digits", "--policy", "CutMix(alhpa=1)"], "did you mean alpha"),
        (["train", "digits", "--policy", "__import__('os')"], "policy: "),
        (["train", "digits", "--method", "SUMix"], "method SUMix needs a policy"),
        (["train", "digits", "--model", "resnet81"], "no model called 'resnet81'; did you mean resnet18?"),
        (["train", "digits", "--model", "resnet34"], "did you mean timm/resnet34?"),
        (["train", "digits", "--loss", "CutMix"], "loss must be one of "),
        (["train", "digits", "--seed", str(2**70)], f"seed must be at most {2**63 - 1}"),
        (["train", "digits", "--threads", "1000000000"], "threads must be at most 1024"),
        (["train", "digits", "--lr", "nan"], "lr must be a number, but is nan"),
        (["train", "digits", "--clip", "inf"], "clip must be at most 1000000000, but is inf"),
        (["train", "cifar100_mini", "--data", "nowhere", "--policy", "CutMux"], "policy: "),
        (["train", "cifar100_mini", "--data", "nowhere", "--method", "SUMux"], "method: "),
        (["train", "cifar100_mini", "--data", "nowhere", "--model", "x"], "no model called 'x'"),
        (["train", "digits", "--batch_size", "1", "--policy", "MixUp"], "leaves 1 image per forward pass"),
        (["train", "digits", "--device", "cuda:99"], "device 'cuda:99' is not available: torch can use auto, cpu"),
        (["train", "digits", "--device", "gpu"], "device 'gpu' is not available"),
        (["train", "digits", "--device", "meta"], "device 'meta' is not available"),
        (["train", "digits", "--image_size", "16384", "--subset", "0"], "out of memory: lower --batch_size"),
        (["train", "digits", "--precision", "fp16", "--device", "cpu"], "fp16 needs a CUDA GPU"),
        (["train", "digits", "--batch_size", "1000"], "batch_size 1000 exceeds the 300 training images"),
        (["train", "cifar100_mini", "--data", "nowhere"], "no CIFAR-100 in "),
        (["train", "folder", "--data", "nowhere"], "no image folders in "),
        (["train", "--resume", "nowhere"], "no run in nowhere: expected nowhere/config.json"),
        (["eval", "nowhere"], "no run in nowhere"),
        (["eval"], "the following arguments are required: RUN"),
        (["eval", "x", "--bins", "0"], "expected a whole number between 1 and 1000, but got '0'"),
        (["eval", "x", "--bins", "1000000000"], "expected a whole number between 1 and 1000"),
        (["eval", "x", "--jsn"], "unexpected argument '--jsn' (see mixwell eval --help)"),
        (["lisst"], "unknown command 'lisst'; did you mean list?"),
    ],
    ids=lambda value: " ".join(value[:4]) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(args, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mixwell: ") and captured.err.count("\n") == 1 and sentence in captured.err
    assert captured.out == "" and list(tmp_path.iterdir()) == []


def test_method_that_cannot_use_the_policy(tmp_path, capsys):
    """An error of mixwell in a training step is one line, too."""
    run(tmp_path / "run", "--method", "AdAutoMix(sources=21)", code=2)
    said = capsys.readouterr().err
    assert "AdAutoMix mixes 21 sources, but the batch has only 20 images" in said and said.count("\n") == 1


@pytest.mark.parametrize("kind", [ValueError, TypeError])
def test_an_error_inside_a_model_keeps_its_traceback(kind, tmp_path, monkeypatch):
    class Broken(nn.Sequential):
        def forward(self, x):
            raise kind("a mistake of the model")

    monkeypatch.setattr(build, "classifier", lambda config, data: Broken(nn.Flatten(), nn.Linear(64, 10)))
    with pytest.raises(kind, match="a mistake of the model"):
        run(tmp_path / "run")


def test_accuracy_on_mixed_images(tmp_path, monkeypatch):
    """The training accuracy is the mean of what the method returns, in percent."""
    seen, real = [], mixwell.Mixing.forward

    def forward(self, images, labels):
        out = real(self, images, labels)
        seen.append(100 * float((out["output"].argmax(1) == labels).float().mean()))
        return out

    monkeypatch.setattr(mixwell.Mixing, "forward", forward)
    history = records(run(tmp_path / "run"))
    assert [r["train_accuracy"] for r in history] == pytest.approx([sum(seen[:2]) / 2, sum(seen[2:]) / 2])
    assert "train_output" not in history[0]


def test_run_is_the_same_as_the_command_line(tmp_path):
    """``train.run`` returns what ``summary.json`` holds; times apart, the command line gives the same."""
    config = replace(RECIPES["digits"](), epochs=2, subset=40, batch_size=20, image_size=8, device="cpu")
    summary = mixwell.train.run(config, tmp_path / "a")
    assert Summary.read(tmp_path / "a" / "summary.json") == summary
    other = Summary.read(run(tmp_path / "b") / "summary.json")
    same = {"seconds": 0, "images_per_second": 0, "command": ""}
    assert replace(summary, **same) == replace(other, **same)
    assert summary.command.endswith(f"--device cpu --out {tmp_path / 'a'}")
    with pytest.raises(RunError, match="already holds a run"):
        mixwell.train.run(config, tmp_path / "a")
    assert mixwell.train.run(config, tmp_path / "a", resume=True).test == summary.test
    with pytest.raises(RunError, match=r"a resumed run keeps its settings, and in .* lr is"):
        mixwell.train.run(replace(config, lr=1.0), tmp_path / "a", resume=True)


def test_home_directory_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run(Path("~/run"))
    assert (tmp_path / "run" / "summary.json").exists()
    assert main(["train", "--resume", "~/run"]) == main(["eval", "~/run"]) == 0


def test_help_and_list(capsys):
    for args in ([], ["--help"], ["-h"]):
        assert main(args) == 0
        said = capsys.readouterr().out
        assert all(word in said for word in ("torchrun", *cli.COMMANDS))
    with pytest.raises(SystemExit, match="0"):
        main(["train", "folder", "--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("--weight_decay", "[224]", "--loss"))
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    kinds = ("policy", "shorthand", "method", "saliency", "pairing", "ratio", "label")
    assert all(name in said for kind in kinds for name in mixwell.names(kind))
    assert all(name in said for name in (*BASES, *TRAININGS, "digits", "folder", "wide_resnet28_8"))
    assert max(map(len, said.splitlines())) < 200
    assert main(["list", "--recipes"]) == 0
    short = capsys.readouterr().out
    assert said.startswith(short) and short.count("\n") < 45 and "policies" not in short
    assert all(name in short for name in (*BASES, *TRAININGS, "digits", "folder"))


def test_recipes_are_listed_and_printed(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines[1:]} == set(RECIPES)
    row = next(line for line in lines if line.startswith("cub200_resnet18_fmix_sumix "))
    assert re.split(" {2,}", row)[1:] == ["cub200", "200", "79.24 (200)", "README of SUMix"]
    data = {line.split()[0]: re.split(" {2,}", line)[1] for line in lines[1:]}
    assert (data["imagenet_resnet50_plain"], data["folder"]) == ("imagenet, as folder", "folder")
    assert main(["recipes", "cub200_*_samix"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
    assert names == [f"cub200_{network}_samix" for network in ("resnet18", "resnext50", "resnet50")]
    assert main(["recipes", "digits"]) == 0
    assert Config.read(capsys.readouterr().out) == RECIPES["digits"]()
    assert main(["recipes", "cub200_resnet18_cutmx"]) == 2
    assert "unknown recipe 'cub200_resnet18_cutmx'; did you mean cub200_resnet18_cutmix?" in capsys.readouterr().err


def test_terminal_shows_a_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    run(tmp_path / "run")
    said = capsys.readouterr().out
    assert "epoch 2/2" in said and "images/s" in said


def test_median_looks_at_the_last_ten_epochs():
    history = [{"epoch": e, "val_top1": float(v)} for e, v in enumerate([99, 98, *range(10)], start=1)]
    assert runs.curve(history, "val_top1") == {"last": 9.0, "best": 99.0, "best_epoch": 1, "median_last_10": 4.5}
