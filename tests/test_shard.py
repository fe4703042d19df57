"""FSDP2: two processes that each keep a part of the classifier train, save and resume as two that keep all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
from safetensors.torch import load_file

from mixwell import models
from mixwell.methods import Mixing, SUMix
from mixwell.policies import CutMix
from mixwell.train import accelerator as processes
from mixwell.train import build, checkpoint, sharding
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.errors import RunError
from mixwell.train.evaluate import evaluate
from mixwell.train.loader import ProcessInfo, evaluation_loader
from mixwell.train.runs import read_config
from test_train_kills import Processes
from test_train_resume import EPOCHS, TINY, metrics, same

ARGS = ["digits", "--epochs", str(EPOCHS), *TINY, "--subset", "40"]


def alone(run: Path) -> dict[str, float]:
    """Measure the classifier of a run on its 21 validation images, in one process; the run has had two."""
    config = read_config(run)
    data = load(config)
    images, accelerator = data.test.take(torch.arange(21)), processes.start(config)
    model = build.classifier(config, data)
    model.load_state_dict(load_file(run / "model.safetensors"))
    found = evaluate(model, evaluation_loader(images, data, config, ProcessInfo(accelerator.device)), accelerator)
    return {name: found[name] for name in ("top1", "loss", "ece")}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("policy", ["none", "CutMix(alpha=1)"])
def test_two_shards(policy: str, tmp_path: Path) -> None:
    """The weights are those of DistributedDataParallel; a killed run ends bit-equal; one process can go on alone."""
    args = [*ARGS, "--policy", policy, "--accumulate", "2", "--clip", "1"]
    plain, whole, run = tmp_path / "plain", tmp_path / "whole", tmp_path / "run"
    for out, more in ((plain, []), (whole, ["--shard"])):
        assert Processes(out, [*args, *more], 2).ended()
    assert alone(whole) == pytest.approx({name: metrics(whole)[-1][f"val_{name}"] for name in ("top1", "loss", "ece")})
    theirs, mine = (load_file(out / "model.safetensors") for out in (plain, whole))
    assert theirs.keys() == mine.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)

    killed = Processes(run, [*args, "--shard"], 2, fatal=50)  # in the checkpoint of an epoch
    assert not killed.ended()
    folder = checkpoint.latest(run)
    assert folder and 0 < checkpoint.epochs(folder) < EPOCHS
    assert Processes(run, [], 2).ended()
    same(run, whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_processes(before: int, after: int, tmp_path: Path) -> None:
    """Without batch norm and mixing, a run that goes on in other processes ends like one that was not interrupted."""
    model = "timm/vit_tiny_patch16_224(img_size=8, patch_size=4, depth=2)"
    args = [*ARGS, "--policy", "none", "--model", model, "--accumulate", "2", "--clip", "1", "--shard"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert Processes(whole, args, 2).ended()
    assert not Processes(run, args, before, fatal=50).ended()
    folder = checkpoint.latest(run)
    assert folder and 0 < checkpoint.epochs(folder) < EPOCHS
    resumed = Processes(run, [], after)
    assert resumed.ended()
    assert f"processes: {after} here, {before} before: same batches" in resumed.note("stderr")
    for name, value in load_file(whole / "model.safetensors").items():
        torch.testing.assert_close(load_file(run / "model.safetensors")[name], value, rtol=1e-3, atol=1e-4)
    last = f"checkpoint/epoch-{EPOCHS:05d}/state.pt"
    theirs, mine = (torch.load(out / last, weights_only=True)["optimizer"]["state"] for out in (whole, run))
    for name, state in theirs.items():
        torch.testing.assert_close(mine[name], state, rtol=1e-2, atol=1e-4)
    theirs, mine = ([record["train_loss"] for record in metrics(out)] for out in (whole, run))
    assert mine == pytest.approx(theirs, rel=1e-3)


def test_what_cannot_be_sharded() -> None:
    """One sentence each."""
    model = models.build("mini_resnet", 10)
    sharding.check(Config(shard=True), Mixing(model, CutMix()))
    with pytest.raises(RunError, match="methods without parameters of their own, and SUMix has some"):
        sharding.check(Config(shard=True, method="SUMix"), SUMix(model, CutMix(), num_classes=10))
    for setting in ({"ema": 0.9}, {"channels_last": True}, {"compile": True}, {"precision": "fp16"}):
        with pytest.raises(RunError, match=f"shard does not work with {next(iter(setting))}"):
            sharding.check(Config(shard=True, **setting), Mixing(model))


def test_every_block_is_a_shard() -> None:
    """The outermost sequences are found in networks of every kind."""
    pytest.importorskip("timm")
    vit = models.build("timm/deit_tiny_patch16_224(img_size=32, depth=3)", 10)
    assert [type(block).__name__ for block in sharding._blocks(vit)] == ["Block"] * 3
    resnet = models.build("resnet18", 10)
    blocks = [*sharding._blocks(resnet)]
    assert len(blocks) == 8 and not set(blocks[0].modules()) & set(blocks[1].modules())
