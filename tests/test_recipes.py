"""Recipes of AutoMix, SAMix and AdAutoMix against the official configurations, typed here once more.

They are in appendix B of the specification: tables B.1, B.2 and B.3, one line for each file.
"""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("timm")
from mixwell import AdAutoMix, AutoMix, Derangement, PerturbedMixing, SAMix, models, parse
from mixwell.labels import RatioShare
from mixwell.losses import CrossEntropy
from mixwell.mixers.masks import VarianceBonus
from mixwell.schedule import Schedule
from mixwell.train import build
from mixwell.train.config import Config
from mixwell.train.recipes import COMBINED, RECIPES

KIND = {"automix": AutoMix, "samix": SAMix, "adautomix": AdAutoMix}
DEIT, SWIN, CONVNEXT = "deit_small_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny"
# tap: layer, channels · images: epochs x batch · main: lr > lowest lr, weight decay · warm: epochs of warm-up / clip
# label: smoothing · mix: alpha / margin, d = nobody with himself · teacher: last momentum / constant share
# block: lr > lowest lr, m0 = without momentum, "=" = the main group's · off: block_p (0: always) · mask loss: 1 or
# V = with variance, f = fading · flags: upsampling, c = lam_concat, N = normalised, k, dropout; n sources, r = random,
# b = beta
OFFICIAL = """
recipe                       tap           images    main            warm  label mix      teacher       block        off cost flags
cifar10_resnet18_automix     layer3:256    400x100   .1>.05,1e-4     0/0   0     2/.08    .999999/.1    =            0   1    nearest
cifar10_resnext50_samix      layer3:1024   400x100   .1>.05,1e-4     0/0   0     2/.08    .999999/.1    =            0   V    bilinear,k.25,drop0
cifar100_resnet18_automix    layer3:256    400x100   .1>.05,1e-4     0/0   0     2/.08    .999999/.1    =            0   1    nearest
cifar100_resnet18_samix      layer3:256    400x100   .1>.05,1e-4     0/0   0     2/.08    .999999/.1    =            0   V    bilinear,k.25,drop0
cifar100_resnet18_adautomix  layer3:256    400x100   .1>.05,1e-4     0/0   0     1/.03    .999999/.1    =            0   -    bilinear,n3,b.3
cifar100_resnext50_automix   layer3:1024   400x100   .1>.05,1e-4     0/0   0     2/.08    .999999/.1    =            0   1    nearest
cifar100_resnext50_samix     layer3:1024   400x100   .1>.05,1e-4     0/0   0     2/.08    .999999/.1    =            0   V    bilinear,k.25,drop0
cifar100_resnext50_adautomix layer3:1024   400x100   .1>.05,1e-4     0/0   0     1/.03    .999999/.1    =            0   -    bilinear,n3,b.3
cifar100_wrn28_8_automix     layer2:256    400x100   .03>1e-3,1e-3   0/0   0     2/.08    .999999/.1    .03>1e-3,m0  0   1    nearest
cifar100_wrn28_8_samix       layer2:256    400x100   .03>1e-3,1e-3   0/0   0     2/.08    .999999/.1    .03>1e-3,m0  0   V    bilinear,k.25,drop0
cifar100_deit_small_automix  blocks.5:384  200x100   5e-4>1e-4,.05   5/10  .1    2/.08    .99996/.25    1e-3>1e-4    1   1f   nearest,c
cifar100_deit_small_samix    blocks.5:384  200x100   7.5e-4>1e-4,.05 20/20 .1    2/.08    .99996/.25    7.5e-4>1e-4  1   Vf   nearest,k-1,drop.1
cifar100_deit_small_adautomix blocks.5:384 200x100   5e-4>1e-4,.05   5/10  .1    1/.03    .99996/.25    1e-3>1e-4    .8  -    nearest,c,n3,b.3
cifar100_deit_tiny_adautomix blocks.5:192  200x100   1e-3>1e-6,.05   5/5   .1    1/.03    .99996/.25    .05>.005     0   -    nearest,c,n3,b.3
cifar100_deit_small_nolam_adautomix blocks.5:384 200x100 5e-4>1e-4,.05 5/10 .1   1/.03    .99996/.25    1e-3>1e-4    0   -    nearest,n3,b.3
cifar100_deit_tiny_automix   blocks.5:192  200x100   1e-3>1e-6,.05   5/5   .1    2/.08    .99996/.25    .05>.005     1   1f   nearest,c
cifar100_deit_base_automix   blocks.5:768  200x100   5e-4>0,.05      5/5   .1    2/.08    .99996/.25    5e-6>0       .5  1f   nearest,c
cifar100_vit_small_automix   blocks.3:768  200x100   5e-4>1e-6,.05   5/5   .1    2/.08    .99996/.25    5e-5>5e-6    1   1f   nearest,c
cifar100_vit_small_adautomix blocks.3:768  200x100   5e-4>1e-6,.05   5/5   .1    1/.03    .99996/.25    5e-5>5e-6    0   -    nearest,n3,b.3
cifar100_vit_large_automix   blocks.11:1024 200x100  5e-4>0,.05      5/5   .1    2/.08    .99996/.25    5e-5>0       1   1f   nearest,c
cifar100_vit_large_adautomix blocks.11:1024 200x100  5e-4>0,.05      5/5   .1    1/.03    .99996/.25    5e-5>0       0   -    nearest,c,n3,b.3
cifar100_deit_base_adautomix blocks.5:768  200x100   5e-4>0,.05      5/5   .1    1/.03    .99996/.25    5e-5>5e-6    0   -    nearest,n3,b.3
cifar100_swin_tiny_automix   layers.3.downsample:768 200x100 5e-4>1e-4,.05 20/10 .1 2/.08 .99996/.25    1e-3>1e-4    1   1f   nearest,c
cifar100_swin_tiny_samix     layers.3.downsample:768 200x100 5e-4>1e-4,.05 20/20 .1 2/.08 .99996/.25    5e-4>1e-4    1   Vf   nearest,k-1,drop.1
cifar100_swin_tiny_adautomix layers.3.downsample:768 200x100 5e-4>1e-4,.05 20/10 .1 1/0   .99996/.25    1e-3>1e-4    0   -    nearest,c,n3r,b.3
cifar100_convnext_tiny_automix stages.2:384 200x100  2e-3>1e-4,.05   20/0  .1    2/.08    .99996/.25    1e-3>1e-4    1   1f   nearest,c
cifar100_convnext_tiny_samix stages.2:384  200x100   1e-3>1e-4,.05   20/20 .1    2/.08    .99996/.25    7.5e-4>1e-4  1   Vf   bilinear,k-1,drop.1
tiny_imagenet_resnet18_automix layer3:256  400x100   .2>.05,1e-4     0/0   0     2/.08    .999999/.1    .1>1e-3      0   1    nearest
tiny_imagenet_resnet18_samix layer3:256    400x100   .2>.05,1e-4     0/0   0     2/.08    .999999/.1    .1>1e-3      0   V    bilinear,k-1,drop0
tiny_imagenet_resnet18_adautomix layer3:256 400x100  .2>0,1e-4       0/0   0     1/.03    .999999/.1    .1>0         0   -    bilinear,n3,b.4
tiny_imagenet_resnext50_automix layer3:1024 400x100  .2>.05,1e-4     0/0   0     2/.08    .999999/.1    .1>1e-3      0   1    nearest
tiny_imagenet_resnext50_samix layer3:1024  400x100   .2>.05,1e-4     0/0   0     2/.08    .999999/.1    .1>1e-3      0   V    bilinear,k.25,drop0
tiny_imagenet_resnext50_adautomix layer3:1024 400x100 .2>.05,1e-4    0/0   0     1/.03    .999999/.1    .1>1e-3      0   -    bilinear,n3,b.4
cub200_resnet18_automix      layer3:256    200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99999/.1     .01>5e-4     0   1f   nearest,c
cub200_resnet18_samix        layer3:256    200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99999/.1     .01>5e-4     0   Vf   bilinear,k1,drop.1
cub200_resnet18_adautomix    layer3:256    200x16    1e-3>0,5e-4     0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n3r,b.3
cub200_resnet50_adautomix    layer3:1024   200x16    1e-3>0,5e-4     0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n3,b.1
cub200_resnext50_automix     layer3:1024   200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99999/.1     .01>5e-4     0   Vf   nearest,c
cub200_resnext50_samix       layer3:1024   200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99999/.1     .01>5e-4     0   Vf   bilinear,k1,drop.1
cub200_resnext50_adautomix   layer3:1024   200x16    1e-3>0,5e-4     0/0   0     1/.03d   .99999/.1     .1>5e-4      0   -    bilinear,c,n3,b.1
aircraft_resnet18_automix    layer3:256    200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99999/.1     .01>5e-4     0   1f   nearest,c
aircraft_resnet18_samix      layer3:256    200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99996/.1     .01>5e-4     0   Vf   bilinear,k1,drop.1
aircraft_resnet18_adautomix  layer3:256    200x16    1e-3>5e-4,5e-4  0/0   0     1/0      .99999/.1     .1>1e-3      0   -    bilinear,c,n3r,b.3
aircraft_resnext50_automix   layer3:1024   200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99999/.1     .01>5e-4     0   Vf   nearest,c
aircraft_resnext50_samix     layer3:1024   200x16    1e-3>0,5e-4     0/0   0     2/.08d   .99996/.1     .01>5e-4     0   Vf   bilinear,k1,drop.1
aircraft_resnext50_adautomix layer3:1024   200x16    1e-3>0,5e-4     0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n3r,b.6
imagenet_resnet50_automix    layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
imagenet_resnet50_bilinear_automix layer3:1024 100x256 .1>0,1e-4     0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,c
imagenet_resnet50_nomomentum_automix layer3:1024 100x256 .1>0,1e-4   0/0   0     2/.08    .99999/.1     .1>1e-3,m0   0   1f   nearest,c
imagenet_resnet50_nomomentum_samix layer3:1024 100x256 .1>0,1e-4     0/0   0     2/.08    .99999/.1     .1>1e-3,m0   0   Vf   bilinear,k-1,drop.1
imagenet_resnet50_samix      layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,k-1,drop.1
imagenet_resnet50_adautomix  layer3:1024   100x256   .1>0,1e-4       0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,N,n2,b.1
imagenet_resnet18_adautomix  layer3:256    100x256   .1>0,1e-4       0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n2,b.1
cars_resnet18_automix        layer3:256    200x16    1e-3>0,5e-4     0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
cars_resnext50_automix       layer3:1024   200x16    1e-3>0,5e-4     0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
cars_resnet18_adautomix      layer3:256    200x16    1e-3>0,5e-4     0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n3,b.5
cars_resnext50_adautomix     layer3:1024   200x16    1e-3>0,5e-4     0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n3,b.3
imagenet_resnet18_automix    layer3:256    100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
imagenet_resnet34_automix    layer3:256    100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
imagenet_resnet101_automix   layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
imagenet_resnext101_automix  layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
imagenet_resnet18_samix      layer3:256    100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,k-1,drop.1
imagenet_resnet34_samix      layer3:256    100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,k-1,drop.1
imagenet_resnext101_samix    layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,k-1,drop.1
imagenet_resnet34_adautomix  layer3:256    100x256   .1>0,1e-4       0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n2,b.1
inaturalist2017_resnet18_automix layer3:256 100x256  .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
inaturalist2017_resnet50_automix layer3:1024 100x256 .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   1f   nearest,c
inaturalist2017_resnext101_automix layer3:1024 100x256 .1>0,1e-4     0/0   0     2/.08    .99999/.1     .1>1e-4      0   1f   nearest,c
inaturalist2018_resnet50_automix layer3:1024 100x256 .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   1f   nearest,c
inaturalist2018_resnext101_automix layer3:1024 100x256 .1>0,1e-4     0/0   0     2/.08    .99999/.1     .1>1e-4      0   1f   nearest,c
inaturalist2017_resnet18_samix layer3:256  100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,k-1,drop.1
inaturalist2017_resnet50_samix layer3:1024 100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   Vf   bilinear,k-1,drop.1
inaturalist2017_resnext101_samix layer3:1024 100x256 .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   Vf   bilinear,k-1,drop.1
inaturalist2018_resnet50_samix layer3:1024 100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   Vf   bilinear,k-1,drop.1
inaturalist2018_resnext101_samix layer3:1024 100x256 .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   Vf   bilinear,k-1,drop.1
places205_resnet18_automix   layer3:256    100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
places205_resnet50_automix   layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   1f   nearest,c
places205_resnet18_samix     layer3:256    100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   Vf   bilinear,k-1,drop.1
places205_resnet50_samix     layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-4      0   Vf   bilinear,k-1,drop.1
imagenet_deit_small_automix  blocks.5:384  300x1024  1e-3>1e-5,.05   5/5   .1    2/.08    .99999/.25    1e-3>1e-4    .8  1f   nearest,c
imagenet_pvt_tiny_automix    stages.2:320  300x1024  1e-3>1e-5,.05   5/5   .1    2/.08    .99999/.25    1e-3>1e-4    .8  1f   nearest,c
imagenet_swin_tiny_automix   layers.3.downsample:768 300x1024 1e-3>1e-5,.05 20/5 .1 2/.08 .99999/.25    1e-3>1e-4    .8  1f   nearest,c
imagenet_convnext_tiny_automix stages.2:384 300x4096 4e-3>1e-6,.05   20/0  .1    2/.08    .99996/.25    4e-3>1e-4    .8  1f   nearest,c
"""  # noqa: E501  (a table)
# Class token, positions of ViT and of PVT's stages, and Swin's (2 * 7 - 1) ** 2 relative positions.
EMBEDDED = {(1, 1), (1, 197), (1, 3136), (1, 784), (1, 196), (1, 50), (169,)}
HEADS, *ROWS = [line.split() for line in OFFICIAL.strip().splitlines()]
# Published accuracies without a released configuration: settings of the nearest data set and network.
UNRELEASED = re.compile(
    r"cifar10_resn|cars_\w+_samix|cub200_resnet50_s?a|_rsb_|imagenet_(deit|pvt|swin|convnext)_\w+_samix|"
    r"imagenet_(deit_(tiny|base)|pvt_small|moganet)|imagenet_resne(xt|t)101_|cifar100_convnext_tiny_adautomix"
)


def built(config: Config) -> AutoMix | AdAutoMix:
    """Build a recipe's method without memory."""
    with torch.device("meta"):
        method = build.method(config, models.build(config.model, 10), 10)
    assert isinstance(method, AutoMix | AdAutoMix)
    return method


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("d").replace(">", "/").replace(",", "/").split("/")]


def test_the_table_is_whole() -> None:
    """Every recipe of the AutoMix family is in the table, unless its configuration was not released."""
    family = {name for name in COMBINED if name.endswith(("_automix", "_samix", "_adautomix"))}
    official = {row[0] for row in ROWS}
    assert official <= family and not [name for name in family - official if not UNRELEASED.search(name)]


def test_the_page_is_current() -> None:
    """Nobody has to remember to run ``make pages``."""
    docs = Path(__file__).resolve().parents[1] / "docs"
    page = (docs / "recipes.md").read_text(encoding="utf-8")
    script = runpy.run_path(str(docs / "make_recipes.py"))
    assert script["filled"](page) == page, "docs/recipes.md is behind the recipes: run 'make pages'"


def test_released_forms_on_the_page_can_be_had() -> None:
    """Every setting that the page names to get the released form is one that the command line takes."""
    page = (Path(__file__).resolve().parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    forms = [cell for line in page.split("<!-- recipes")[0].splitlines() if line.startswith("|")
             for cell in re.findall(r"\| `([^`]+)` \|$", line)]  # fmt: skip
    assert len(forms) == 4
    for form in forms:
        if form.startswith("method="):
            assert parse(form.removeprefix("method=").strip('"')).func is PerturbedMixing
            continue
        text = form if "=" in form.partition("(")[0] else f"mask_loss={form}"
        parse(f"AdAutoMix({text})" if "cosine" in text else f"SAMix({text})")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_official_settings(row: list[str]) -> None:
    name, *values = row
    official = dict(zip(HEADS[1:], values, strict=True))
    config = RECIPES[name]()
    kind = name.rpartition("_")[2]
    assert Config.read(config.json()) == config
    assert [config.epochs, config.batch_size] == [int(text) for text in official["images"].split("x")]
    peak, lowest, decay = numbers(official["main"])
    assert [config.warmup, config.clip] == numbers(official["warm"])
    method = built(config)
    assert type(method) is KIND[kind]
    assert f"{method.teacher.layer}:{method.block.channels}" == official["tap"]
    check_learning(config, method, official)
    check_groups(config, method, official["block"], (peak, lowest, decay))
    (check_sources if kind == "adautomix" else check_masks)(method, official)


def check_learning(config: Config, method: AutoMix | AdAutoMix, official: dict[str, str]) -> None:
    """Compare what all three methods have."""
    alpha, margin = numbers(official["mix"])
    assert method.policy == parse(config.policy) and method.policy.alpha == alpha  # type: ignore[attr-defined]
    assert isinstance(method.policy.pairing, Derangement) == official["mix"].endswith("d")  # type: ignore[attr-defined]
    assert (method.margin, method.loss) == (margin, CrossEntropy(smoothing=float(official["label"])))
    assert method.label == RatioShare()  # section 2.4: labels are weighed by the drawn ratio
    end, warm = numbers(official["teacher"])
    momentum = method.teacher.momentum
    assert isinstance(momentum, Schedule)
    for progress in (0.0, warm - 1e-9, warm, 0.5, 1.0):  # the published formula
        expected = 0.999 if progress < warm else end - (end - 0.999) * (math.cos(math.pi * progress) + 1) / 2
        assert momentum(progress) == pytest.approx(expected, abs=1e-12)
    assert method.block_p == (float(official["off"]) or 1)  # 0 trains the block in every step, as 1 does
    flags = official["flags"].split(",")
    settings = method.block.settings
    assert (settings.upsampling, settings.lam_concat) == (flags[0], "c" in flags) and settings.reduction == 2
    assert settings.norm == ("batch" if "N" in flags else None)


def check_groups(config: Config, method: AutoMix | AdAutoMix, block: str, main: tuple[float, ...]) -> None:
    """Compare the groups that really reach the optimiser, and the rates that they begin and end with."""
    peak, lowest, decay = main
    optimizer, own = build.optimizer(config, method), {id(p) for p in method.block.parameters()}
    adam = decay == 0.05
    assert type(optimizer) is (torch.optim.AdamW if adam else torch.optim.SGD)
    first, last = (peak, lowest) if block == "=" else numbers(block.removesuffix(",m0"))
    for group in optimizer.param_groups:
        mine = id(group["params"][0]) in own
        assert all((id(p) in own) == mine for p in group["params"])
        ends = group["peak"], group.get("lr_min", config.lr_min)
        assert ends == ((first, last) if mine else (peak, lowest))
        assert adam or group["momentum"] == (0 if mine and block.endswith("m0") else 0.9)
        assert not adam or group["betas"] == (0.9, 0.999)
        spared = [p.ndim < 2 or (len(p), *p.shape[1:-1]) in EMBEDDED for p in group["params"]]
        assert group["weight_decay"] == (0 if adam and all(spared) else decay)
        assert not adam or all(spared) or not any(spared)


def check_masks(method: AutoMix, official: dict[str, str]) -> None:
    """Compare the block and the cost of masks of AutoMix and SAMix."""
    cost, flags, settings = official["cost"], official["flags"], method.block.settings
    terms = getattr(method.mask_loss, "terms", (method.mask_loss,))
    assert all(term.scope == "sample" for term in terms) and terms[0].margin == 0.1
    assert any(isinstance(term, VarianceBonus) for term in terms) == cost.startswith("V")
    weights = []
    for progress in (0.0, 0.5, 1.0):
        method.set_extra_state(torch.tensor(progress))
        weights.append(method.mask_weight)
    assert weights == pytest.approx([0.1, 0.05, 0.0] if cost.endswith("f") else [0.1] * 3)
    pair = isinstance(method, SAMix)
    assert (settings.pair, settings.neck, settings.lam_multiply) == (pair, pair, float(pair))
    if pair:
        k, dropout = flags.split(",")[1:]
        assert settings.k == (None if k == "k-1" else float(k[1:]))
        assert settings.dropout == float(dropout.removeprefix("drop"))


def check_sources(method: AdAutoMix, official: dict[str, str]) -> None:
    """Compare what AdAutoMix alone has."""
    number, beta = official["flags"].split(",")[-2:]
    assert number == f"n{method.sources}" + "r" * method.random_sources and f"b{method.beta}".replace("0.", ".") == beta
    assert (method.interval, method.plain, method.cosine_sign) == (2, 0.5, -1)
