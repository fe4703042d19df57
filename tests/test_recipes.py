"""Recipes against the official configurations, typed here once more from a mechanical dump, and taken for a step."""

from __future__ import annotations

import math
import re
import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("timm")
from mixwell import AdAutoMix, AutoMix, Derangement, SAMix, models, parse
from mixwell.losses import BinaryCrossEntropy, CrossEntropy
from mixwell.mixers.masks import VarianceBonus
from mixwell.schedule import Schedule
from mixwell.train import build
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.recipes import FAMILIES, RECIPES, Recipe, attention

KIND = {"automix": AutoMix, "samix": SAMix, "adautomix": AdAutoMix}
DEIT, SWIN, CONVNEXT = "deit_small_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny"
# tap: layer, channels · images: epochs x batch · main: lr > lowest lr, weight decay · warm: epochs of warm-up / clip
# label: smoothing · mix: alpha / margin, d = nobody with himself · teacher: last momentum / constant share
# block: lr > lowest lr, m0 = without momentum, "=" = the main group's · off: block_p (0: always) · mask loss: 1 or
# V = with variance, f = fading · flags: upsampling, c = lam_concat, N = normalised, k, dropout; n sources, r = random,
# b = beta
OFFICIAL = """
recipe                       tap           images    main            warm  label mix      teacher       block        off cost flags
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
imagenet_resnet50_samix      layer3:1024   100x256   .1>0,1e-4       0/0   0     2/.08    .99999/.1     .1>1e-3      0   Vf   bilinear,k-1,drop.1
imagenet_resnet50_adautomix  layer3:1024   100x256   .1>0,1e-4       0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,N,n2,b.1
imagenet_resnet18_adautomix  layer3:256    100x256   .1>0,1e-4       0/0   0     1/.03    .99999/.1     .1>1e-3      0   -    bilinear,c,n2,b.1
imagenet_deit_small_automix  blocks.5:384  300x1024  1e-3>1e-5,.05   5/5   .1    2/.08    .99999/.25    1e-3>1e-4    .8  1f   nearest,c
imagenet_swin_tiny_automix   layers.3.downsample:768 300x1024 1e-3>1e-5,.05 20/5 .1 2/.08 .99999/.25    1e-3>1e-4    .8  1f   nearest,c
imagenet_convnext_tiny_automix stages.2:384 300x4096 4e-3>1e-6,.05   20/0  .1    2/.08    .99996/.25    4e-3>1e-4    .8  1f   nearest,c
"""  # noqa: E501  (a table)
EMBEDDED = {(1, 1), (1, 197), (169,)}  # class token, positions, and Swin's (2 * 7 - 1) ** 2 relative positions
HEADS, *ROWS = [line.split() for line in OFFICIAL.strip().splitlines()]
MODELS = {
    "cifar100": {
        "resnet18": "resnet18", "resnext50": "resnext50_32x4d", "wrn28_8": "wide_resnet28_8",
        "deit_small": f"timm/{DEIT}(drop_path_rate=0.1)", "swin_tiny": f"timm/{SWIN}(drop_path_rate=0.2)",
        "deit_tiny": "timm/deit_tiny_patch16_224(drop_path_rate=0.1)",
        "deit_base": "timm/deit_base_patch16_224(drop_path_rate=0.1)",
        "convnext_tiny": f"timm/{CONVNEXT}(drop_path_rate=0.3, patch_size=1)",
    },
    "tiny_imagenet": {"resnet18": "resnet18", "resnext50": "resnext50_32x4d"},
    "cub200": {"resnet18": "timm/resnet18", "resnet50": "timm/resnet50", "resnext50": "timm/resnext50_32x4d"},
    "aircraft": {"resnet18": "timm/resnet18", "resnext50": "timm/resnext50_32x4d"},
    "imagenet": {
        "resnet18": "timm/resnet18", "resnet50": "timm/resnet50", "deit_small": f"timm/{DEIT}(drop_path_rate=0.1)",
        "swin_tiny": f"timm/{SWIN}(drop_path_rate=0.2)", "convnext_tiny": f"timm/{CONVNEXT}(drop_path_rate=0.1)",
    },
}  # fmt: skip


def built(config: Config) -> AutoMix | AdAutoMix:
    """Build a recipe's method without memory."""
    with torch.device("meta"):
        method = build.method(config, models.build(config.model, 10), 10)
    assert isinstance(method, AutoMix | AdAutoMix)
    return method


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("d").replace(">", "/").replace(",", "/").split("/")]


def test_the_table_is_whole() -> None:
    """Every recipe of the AutoMix family stands in the table, and every recipe in one family of the help."""
    family = [name for name in RECIPES if re.match(r"(Auto|SA|AdAuto)Mix", RECIPES[name]().method)]
    assert [row[0] for row in ROWS] == [name for name in family if "mini" not in name]
    assert len(RECIPES) == sum(map(len, FAMILIES.values()))


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
    assert len(forms) == 3
    for form in forms:
        text = form if "=" in form.partition("(")[0] else f"mask_loss={form}"
        parse(f"AdAutoMix({text})" if "cosine" in text else f"SAMix({text})")


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_official_settings(row: list[str]) -> None:
    name, *values = row
    official = dict(zip(HEADS[1:], values, strict=True))
    config = RECIPES[name]()
    data = next(data for data in MODELS if name.startswith(f"{data}_"))
    network, _, kind = name.removeprefix(f"{data}_").rpartition("_")
    assert config.model == MODELS[data][network] and Config.read(config.json()) == config
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


def test_images() -> None:
    """What becomes of images before they are mixed, family by family."""
    seen = {}
    for name in RECIPES:
        config = RECIPES[name]()
        if name.endswith("mix"):
            key = (config.dataset, config.image_size, config.crop, config.scale, config.eval_crop)
            seen.setdefault((*key, config.augment, config.erasing, config.weights), set()).add(name.split("_")[0])
            assert config.flip
    assert seen == {
        ("cifar100", 32, 4, 0.08, 0.875, "", 0, ""): {"cifar100"},
        ("cifar100", 224, 0, 0.8, 0.875, "rand-m7-n2-mstd0.5", 0, ""): {"cifar100"},
        ("tiny_imagenet", 64, 0, 0.08, 1.0, "", 0, ""): {"tiny"},
        ("cub200", 224, 0, 0.5, 0.875, "", 0, "timm/tv_in1k"): {"cub200"},
        ("aircraft", 224, 0, 0.5, 0.875, "", 0, "timm/tv_in1k"): {"aircraft"},
        ("folder", 224, 0, 0.08, 0.875, "", 0, ""): {"imagenet"},
        ("folder", 224, 0, 0.08, 0.875, "rand-m9-mstd0.5-inc1", 0.25, ""): {"imagenet"},
    }


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
        ("cifar100_resnet18_automix", []),
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


SMALL = {  # the same families with few tokens and blocks
    "deit_small": "timm/deit_tiny_patch16_224(img_size=56, patch_size=14, depth=2)",
    "swin_tiny": "timm/swin_tiny_patch4_window7_224(img_size=112, depths=(1, 1, 1, 1), embed_dim=24)",
    "pvt_v2_b1": "timm/pvt_v2_b0(depths=(1, 1, 1, 1))",
}


@pytest.mark.parametrize("recipe", attention.RECIPES, ids=[recipe.__name__ for recipe in attention.RECIPES])
def test_transformers_take_a_step(recipe: Recipe) -> None:
    """Method and network of every recipe go together: one step, of every choice that the policy makes."""
    config = recipe()
    assert Config.read(config.json()) == config and config.image_size == 224
    model = models.build(next(small for name, small in SMALL.items() if name in config.recipe), 5)
    size = 56 if "deit" in config.recipe else 112
    policy = re.sub("(TokenMix|SMMix)\\(", lambda found: f"{found[1]}(cells={size // 14}, ", config.policy)
    policy = policy.replace("MaskMix()", "MaskMix(patch=28)")
    method = build.method(replace(config, policy=policy.replace(", )", ")")), model, 5)
    for seed in range(4):
        torch.manual_seed(seed)
        output = method(torch.randn(4, 3, size, size), torch.randint(5, (4,)))
        output["loss"].backward()
    assert output["loss"].isfinite()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_transformers_as_published() -> None:
    configs = {recipe.__name__: recipe() for recipe in attention.RECIPES}
    assert len(configs) == 32
    transmix = configs["imagenet_deit_small_transmix"]
    assert transmix.policy == "switch_mix(switch_prob=0.8)" and transmix.augment == "rand-m9-mstd0.5-inc1"
    assert (transmix.lr, transmix.lr_min, transmix.weight_decay) == (1e-3, 1e-5, 0.03)
    assert (transmix.warmup, transmix.batch_size, transmix.ema, transmix.epochs) == (20, 2048, 0.99996, 300)
    tokenmix = configs["imagenet_deit_small_tokenmix"]
    assert (tokenmix.batch_size, tokenmix.erasing) == (1024, 0.25)
    assert isinstance(parse(tokenmix.loss), BinaryCrossEntropy)
    mergemix = configs["cifar100_deit_small_mergemix"]
    assert (mergemix.lr, mergemix.warmup, mergemix.clip, mergemix.batch_size) == (1e-3, 20, 5, 100)
    assert configs["cifar100_swin_tiny_sumix"].lr == 5e-4


def test_a_name_for_every_run() -> None:
    from mixwell.train.cli import _run_name

    names = {_run_name(recipe()) for recipe in RECIPES.values()}
    assert len(names) == len(RECIPES) and max(map(len, names)) < 120
    assert _run_name(RECIPES["cifar100_mini"]()) == "cifar100_mini-CutMix_alpha=0.2-SUMix-seed0"
    long = (f"AutoMix(mask_weight={weight}, block_p=0.5, margin=0.1)" for weight in (0.1, 0.2))
    assert len({_run_name(replace(RECIPES["cifar100_mini"](), method=text)) for text in long}) == 2


def test_pretrained_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag goes to timm as it calls it, and a network that is away is told as such."""
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
