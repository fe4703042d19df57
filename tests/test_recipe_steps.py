"""One step of every recipe, on images of its data set's layout."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("timm")
import test_train_layouts
from mixwell import models
from mixwell.train import build, run
from mixwell.train.cli import main
from mixwell.train.errors import RunError
from mixwell.train.recipes import COMBINED, RECIPES


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred pictures of noise that pass for CIFAR-100."""
    folder, draw = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    parts = {name: draw.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8) for name in ("x_train", "x_test")}
    parts = {name: np.ascontiguousarray(part.transpose(0, 3, 1, 2)) for name, part in parts.items()}
    np.savez(folder / "cifar.npz", y_train=np.arange(100), y_test=np.arange(100), **parts)
    return folder


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        pytest.param("cifar100_resnet18_automix", [], marks=pytest.mark.slow),
        (
            "cifar100_deit_small_automix",
            ["--model", "timm/deit_tiny_patch16_224(img_size=48, depth=4)", "--image_size", "48", "--workers", "0"],
        ),
    ],
)
def test_a_step(recipe: str, changes: list[str], cifar: Path, tmp_path: Path) -> None:
    """The program takes a recipe from its name to a trained step, and writes a name that a file system bears."""
    words = ["--batch_size", "50", "--subset", "100", "--epochs", "1", "--threads", "1", "--device", "cpu"]
    assert main(["train", recipe, "--data", str(cifar), *words, *changes, "--out", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "model.safetensors").exists()


SMALL = {  # the same families with few tokens and blocks: name, side of the images
    "deit_": ("timm/deit_tiny_patch16_224(img_size=64, depth=2)", 64),
    "swin_tiny": ("timm/swin_tiny_patch4_window7_224(img_size=112, depths=(1, 1, 1, 1), embed_dim=24)", 112),
    "vit_base": ("timm/deit_tiny_patch16_224(img_size=64, depth=2)", 64),
    "vit_large": ("timm/deit_tiny_patch16_224(img_size=64, depth=2)", 64),
    "pvt_tiny": ("pvt_tiny(depths=(1, 1, 1, 1))", 64),
    "pvt_small": ("pvt_tiny(depths=(1, 1, 1, 1))", 64),
    "moganet": ("moganet_tiny(depths=(1, 1, 1, 1))", 64),
    "pvt_v2_b1": ("timm/pvt_v2_b0(depths=(1, 1, 1, 1))", 112),
    "convnext": ("timm/convnext_atto(patch_size=1)", 32),
}


def steps() -> list[Any]:
    """Return every combination of network, policy, method and loss once; all but one for each training are slow."""
    seen, trainings, found = set[tuple[str, ...]](), set[str](), []
    for name, recipe in COMBINED.items():
        config = recipe()
        model, side = next((small for part, small in SMALL.items() if part in config.model), (config.model, 32))
        parts = (model, config.policy, config.method, config.loss)
        if parts not in seen:
            marks = [pytest.mark.slow] if recipe.training in trainings else []
            found.append(pytest.param(name, model, side, marks=marks, id=name))
            seen.add(parts)
            trainings.add(recipe.training)
    return found


@pytest.mark.parametrize(("name", "model", "side"), steps())
def test_every_recipe_takes_a_step(name: str, model: str, side: int) -> None:
    """Method, network and optimizer of every recipe go together; of a random choice of policies, each is tried."""
    config = replace(RECIPES[name](), model=model)
    policy = re.sub("(TokenMix|SMMix)\\((cells=7, )?", lambda found: f"{found[1]}(cells={side // 16}, ", config.policy)
    policy = policy.replace("MaskMix()", "MaskMix(patch=16)").replace(", )", ")")
    network = models.build(model, 5)
    method = build.method(replace(config, policy=policy), network, 5)
    optimizer = build.optimizer(config, method)
    for seed in range(4 if "OneOf" in policy else 1):
        torch.manual_seed(seed)
        output = method(torch.rand(4, 3, side, side), torch.randint(5, (4,)))
        output["loss"].backward()
        optimizer.step()
    assert output["loss"].isfinite()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


LAYOUTS = {
    "cub200": "cub200_resnet18_cutmix_sumix", "tiny_imagenet": "tiny_imagenet_resnet18_fmix_sumix",
    "aircraft": "aircraft_resnet18_resizemix_sumix", "cars": "cars_resnet18_automix",
    "inaturalist": "inaturalist2017_resnet18_cutmix",
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_step_on_files(layout: str, tmp_path: Path) -> None:
    """A recipe reads its data set as its authors publish it."""
    getattr(test_train_layouts, layout)(tmp_path)
    config = replace(
        RECIPES[LAYOUTS[layout]](), data=str(tmp_path), model="mini_resnet", weights="", image_size=32, epochs=1,
        batch_size=2, workers=0, threads=1, device="cpu",
    )  # fmt: skip
    assert run(config, tmp_path / "run").epochs == 1


def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag of pretrained weights is passed to timm, and a failed download is one clear error."""
    import timm

    asked, real = [], timm.create_model

    def create(name: str, pretrained: bool = False, **settings: object) -> torch.nn.Module:
        asked.append((name, pretrained))
        if len(asked) > 1:
            raise OSError("no route to host")
        return real(name.partition(".")[0], **settings)

    monkeypatch.setattr(timm, "create_model", create)
    from test_train_config import DATA

    config = replace(RECIPES["cub200_resnet18_automix"](), image_size=32)
    build.classifier(config, DATA)
    assert asked == [("resnet18.tv_in1k", True)]
    with pytest.raises(RunError, match=r"cannot create resnet18.tv_in1k.*no route.*give the weights as a file"):
        build.classifier(config, DATA)
    with pytest.raises(RunError, match="only models of timm have"):
        build.classifier(replace(config, model="resnet18"), DATA)
