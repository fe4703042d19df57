"""A group's own settings on their way from a method to every step of the optimiser, across a break as well."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("accelerate")
from mixwell import AutoMix
from mixwell.models import mini_resnet
from mixwell.train import build, display
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.errors import RunError

OWN = {"lr": 0.3, "momentum": 0.25, "weight_decay": 0.02}
ADAM = {name: value for name, value in OWN.items() if name != "momentum"}


def owner(method: AutoMix, group: dict[str, Any]) -> str:
    """Tell whose parameters a group holds, which must all be the same one's."""
    block = {id(p) for p in method.block.parameters()}
    (mine,) = {id(p) in block for p in group["params"]}
    return "block" if mine else "student"


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize(
    ("optimizer", "own"), [("sgd", OWN), ("adamw", ADAM), ("lamb", ADAM), ("momentum", OWN), ("lookahead_adamw", ADAM)]
)
def test_settings_arrive(optimizer: str, own: dict[str, float], decay_all: bool) -> None:
    if optimizer not in ("sgd", "adamw"):
        pytest.importorskip("timm")
    method = AutoMix(mini_resnet(10), block_group=own)
    config = Config(optimizer=optimizer, lr=0.1, lr_min=0.01, block_lr_min=0.07, weight_decay=0.5, decay_all=decay_all)
    made, held = build.optimizer(config, method), []
    for group in made.param_groups:
        block, spared = owner(method, group) == "block", not decay_all and group["params"][0].ndim < 2
        held += [id(p) for p in group["params"]]
        assert group["peak"] == group["lr"] == (0.3 if block else 0.1)
        assert group.get("lr_min") == (0.07 if block else None)
        assert group["weight_decay"] == (0 if spared else 0.02 if block else 0.5)
        assert "momentum" not in made.defaults or group["momentum"] == (0.25 if block else 0.9)
        assert decay_all or {p.ndim < 2 for p in group["params"]} == {spared}
    assert len(made.param_groups) == (2 if decay_all else 4)
    assert sorted(held) == sorted(id(p) for p in method.parameters() if p.requires_grad)


def test_a_setting_that_nobody_reads_is_told() -> None:
    """Torch would keep it in the group and train without it."""
    for own, optimizer, sentence in [
        ({"learning_rate": 1.0}, "sgd", "optimizer sgd has no setting 'learning_rate' for a group"),
        ({"moment": 1.0}, "sgd", "has no setting 'moment' for a group; did you mean momentum"),
        (OWN, "adamw", "optimizer adamw has no setting 'momentum' for a group"),
    ]:
        with pytest.raises(RunError, match=sentence):
            build.optimizer(Config(optimizer=optimizer), AutoMix(mini_resnet(10), block_group=own))


def test_embeddings_that_timm_names_are_spared() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=10)
    method = AutoMix(model)
    decayed = {
        id(p)
        for group in build.optimizer(Config(optimizer="adamw", decay_all=False), method).param_groups
        for p in group["params"]
        if group["weight_decay"]
    }
    names = {name for name, p in model.named_parameters() if id(p) not in decayed}
    assert {"cls_token", "pos_embed", "norm.weight", "head.bias"} <= names
    assert "patch_embed.proj.weight" not in names and "blocks.0.attn.qkv.weight" not in names


def test_every_group_follows_its_own_cosine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``lr_min + (peak - lr_min) / 2 * (1 + cos(pi t / T))`` in every step, also behind a break."""
    epochs, steps, rates = 4, 3, []
    words = ["--subset", "60", "--batch_size", "20", "--image_size", "8", "--threads", "1", "--device", "cpu"]
    group = "{'lr': 0.3, 'momentum': 0.25, 'weight_decay': 0.02}"
    words += [
        "--method",
        f"AutoMix(block_group={group})",
        "--lr",
        "0.1",
        "--lr_min",
        "0.01",
        "--block_lr_min",
        "0.07",
        "--warmup",
        "0",
    ]
    real, shown = torch.optim.SGD.step, display.Display.step

    def step(self: torch.optim.SGD, *args: Any, **kwargs: Any) -> Any:
        rates.append([(g["lr"], g["momentum"], g["weight_decay"]) for g in self.param_groups])
        return real(self, *args, **kwargs)

    def stop(self: display.Display, images: int) -> None:
        shown(self, images)
        if len(rates) == 2 * steps + 1:  # the first step of the third epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    with monkeypatch.context() as patch:
        patch.setattr(display.Display, "step", stop)
        args = ["train", "digits", "--epochs", str(epochs), *words, "--out", str(tmp_path / "run")]
        assert main(args) == 130
    del rates[2 * steps :]  # it is repeated
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert len(rates) == epochs * steps
    for t, (student, block) in enumerate(rates):
        half = (1 + math.cos(math.pi * t / (epochs * steps))) / 2
        assert student == (pytest.approx(0.01 + 0.09 * half), 0.9, 5e-4)
        assert block == (pytest.approx(0.07 + 0.23 * half), 0.25, 0.02)
