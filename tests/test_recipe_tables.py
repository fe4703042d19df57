"""Recipes against the tables of the papers, typed here once more; test_recipe_spec.py reads the accuracies.

Sections are those of the specification: 8.2 data and training, 1.6 SUMix, 9 parameters of the policies. The settings of
AutoMix, SAMix and AdAutoMix are in test_recipes.py.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("timm")
from mixwell import FMix, Normalization, ResizeMix, SUMix, Uniform, models, parse
from mixwell.losses import BinaryCrossEntropy
from mixwell.train import build, cifar, image_folder
from mixwell.train.recipes import BASES, COMBINED, RECIPES, TRAININGS

SWIN, CONVNEXT = "swin_tiny_patch4_window7_224", "convnext_tiny"
VIT = "timm/{}_patch16_224(drop_path_rate=0.1)"
MODELS = {
    "32": {"resnet18": "resnet18", "resnext50": "resnext50_32x4d", "wrn28_8": "wide_resnet28_8"},
    "224": {
        **{name: f"timm/{name}" for name in ("resnet18", "resnet34", "resnet50", "resnet101")},
        "resnext50": "timm/resnext50_32x4d", "resnext101": "timm/resnext101_32x4d",
        **{name: VIT.format(name) for name in ("deit_tiny", "deit_small", "deit_base")},
        "vit_small": "timm/vit_base_patch16_224(depth=8, num_heads=8, mlp_ratio=3.0, drop_path_rate=0.1)",
        "vit_large": VIT.format("vit_large"),
        **{name: f"{name}(drop_path_rate=0.1)" for name in ("pvt_tiny", "pvt_small", "moganet_tiny")},
        "swin_tiny": f"timm/{SWIN}(drop_path_rate=0.2)", "pvt_v2_b1": "timm/pvt_v2_b1(drop_path_rate=0.1)",
        "convnext_tiny": f"timm/{CONVNEXT}(drop_path_rate=0.1)",
        "resnet50_rsb_a2": "timm/resnet50(drop_path_rate=0.05)", "resnet50_rsb_a3": "timm/resnet50",
        **{f"efficientnet_b0_rsb_{name}": "timm/efficientnet_b0" for name in ("a2", "a3")},
        **{f"mobilenet_v2_rsb_{name}": "timm/mobilenetv2_100" for name in ("a2", "a3")},
    },
}  # fmt: skip


def numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("d").replace(">", "/").replace(",", "/").split("/")]


# Sections 8.2 and 5.4 (ViT), "ResNet strikes back" as OpenMixup has it, and its configurations of PVT and MogaNet.
# images: pixels, reflected crop, smallest area of a crop, center crop of the evaluation · training: epochs x batch
# main: rate > lowest rate, weight decay · warm: epochs of warm-up / clip · label: smoothing, b = binary cross entropy
DATA = """
name                 data-set      images         augment              training optimiser main          warm label
cifar10_res          cifar10       32,4,.08,.875  -                    800x100  sgd       .1>0,1e-4     0/0  0
cifar100_res         cifar100      32,4,.08,.875  -                    800x100  sgd       .1>0,1e-4     0/0  0
cifar100_wrn         cifar100      32,4,.08,.875  -                    400x100  sgd       .03>0,1e-3    0/0  0
cifar100_deit_[ts]   cifar100      224,0,.8,.875  rand-m7-n2-mstd0.5   200x100  adamw     1e-3>1e-6,.05 20/5 .1
cifar100_deit_base   cifar100      224,0,.8,.875  rand-m7-n2-mstd0.5   200x100  adamw     5e-4>1e-6,.05 20/5 .1
cifar100_vit_small   cifar100      224,0,.8,.875  rand-m7-n2-mstd0.5   200x100  adamw     5e-4>1e-6,.05 20/5 .1
cifar100_vit_large   cifar100      224,0,.8,.875  rand-m7-n2-mstd0.5   200x100  adamw     2e-4>1e-6,.05 20/5 .1
cifar100_swin        cifar100      224,0,.8,.875  rand-m7-n2-mstd0.5   200x100  adamw     5e-4>1e-6,.05 20/5 .1
cifar100_convnext    cifar100      32,4,.08,.875  -                    200x100  adamw     1e-3>1e-4,.05 20/0 .1
tiny_imagenet        tiny_imagenet 64,0,.08,1     -                    400x100  sgd       .2>0,1e-4     0/0  0
cub200               cub200        224,0,.5,.875  -                    200x16   sgd       1e-3>0,5e-4   0/0  0
aircraft             aircraft      224,0,.5,.875  -                    200x16   sgd       1e-3>0,5e-4   0/0  0
cars                 cars          224,0,.5,.875  -                    200x16   sgd       1e-3>0,5e-4   0/0  0
imagenet_\\w+_rsb_a2 folder        224,0,.08,.95  rand-m7-mstd0.5-inc1 300x2048 lamb      5e-3>1e-6,.02 5/0  b
imagenet_\\w+_rsb_a3 folder        160,0,.08,.95  rand-m6-mstd0.5-inc1 100x2048 lamb      8e-3>1e-6,.02 5/0  b
imagenet_res         folder        224,0,.08,.875 -                    100x256  sgd       .1>0,1e-4     0/0  0
imagenet_deit        folder        224,0,.08,.875 rand-m9-mstd0.5-inc1 300x1024 adamw     1e-3>1e-5,.05 5/5  .1
imagenet_pvt_(t|s)   folder        224,0,.08,.875 rand-m9-mstd0.5-inc1 300x1024 adamw     1e-3>1e-5,.05 5/0  .1
imagenet_moganet     folder        224,0,.08,.9   rand-m7-mstd0.5-inc1 300x1024 adamw     1e-3>1e-6,.04 5/0  .1
imagenet_(swin|pvt)  folder        224,0,.08,.875 rand-m9-mstd0.5-inc1 300x1024 adamw     1e-3>1e-5,.05 20/5 .1
imagenet_convnext    folder        224,0,.08,.875 rand-m9-mstd0.5-inc1 300x4096 adamw     4e-3>1e-6,.05 20/0 .1
inaturalist          inaturalist   224,0,.08,.875 -                    100x256  sgd       .1>0,1e-4     0/0  0
places205            places205     224,0,.08,.875 -                    100x256  sgd       .1>0,1e-4     0/0  0
"""
DATA_ROWS = [line.split() for line in DATA.strip().splitlines()[1:]]


@pytest.mark.parametrize("name", BASES)
def test_data_and_networks(name: str) -> None:
    config = BASES[name]
    row = next(row for row in DATA_ROWS if re.match(row[0], name))
    _, data, images, augment, training, optimizer, main, warm, label = row
    assert (config.dataset, config.augment, config.optimizer) == (data, augment.strip("-"), optimizer)
    assert [config.image_size, config.crop, config.scale, config.eval_crop] == [float(n) for n in images.split(",")]
    assert [config.epochs, config.batch_size] == [int(n) for n in training.split("x")]
    assert [config.lr, config.lr_min, config.weight_decay] == numbers(main)
    assert [config.warmup, config.clip] == numbers(warm) and config.flip
    loss = {"0": "", "b": "BinaryCrossEntropy()"}.get(label, f"CrossEntropy(smoothing=0{label})")
    assert (config.loss, config.decay_all) == (loss, optimizer == "sgd")
    assert config.weights == ("timm/tv_in1k" if config.batch_size == 16 else "")
    deit = config.optimizer == "adamw" and config.dataset == "folder"
    assert config.erasing == (0.25 if deit else 0)
    repeats = 3 if name.endswith(("_a2", "pvt_tiny", "pvt_small")) else 1
    assert (config.eval_size, config.repeats) == (224 if name.endswith("_a3") else 0, repeats)
    assert (config.momentum, config.ema, config.accumulate) == (0.9, 0, 4 if "imagenet_convnext" in name else 1)
    network = re.sub(r"^(tiny_imagenet|[a-z]+\d*)_", "", name)
    special = {"cifar100_convnext_tiny": "timm/convnext_tiny(drop_path_rate=0.3, patch_size=1)"}
    assert config.model == special.get(name, MODELS["32" if config.image_size < 100 else "224"].get(network))


def test_normalization() -> None:
    """Section 8.2: CIFAR-10's numbers for both CIFAR data sets, ImageNet's for all others."""
    assert Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)) == cifar.NORMALIZATION
    assert Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)) == image_folder.IMAGENET


def test_policies_without_alpha() -> None:
    """Section 1.6: the side of ResizeMix's images, and the masks of FMix."""
    resizemix, fmix = (parse(RECIPES[f"cifar100_resnet18_{name}_sumix"]().policy) for name in ("resizemix", "fmix"))
    assert resizemix == ResizeMix(alpha=Uniform(0.1, 0.8))
    assert fmix == FMix(alpha=0.2, decay=3.0, soft=0.0)


# Section 9: parameter of the Beta distribution in OpenMixup's tables; "-": no such row. ResizeMix draws the side of the
# pasted image uniformly, SmoothMix its width.
ALPHAS = """
training     cifar10_ cifar100_(res|wrn) cifar100_(deit|vit|swin|conv) tiny cub200|aircraft imagenet_res[a-z]+\\d+$ imagenet_.*_rsb imagenet_(deit|swin|conv|pvt|moga) inat places
mixup        1       1                  .8                        1    .2              .2                   .2              .2                         .2   .2
cutmix       .2      .2                 2                         1    1               1                    .2              .2                         1    .2
fmix         .2      .2                 1                         1    .2              1                    .2              .2                         1    .2
saliencymix  .2      .2                 .2                        1    .2              1                    .2              .2                         1    .2
puzzlemix    1       1                  2                         1    1               1                    1               1                          1    1
comixup      -       2                  -                         2    -               2                    -               -                          -    -
manifoldmix  2       2                  2                         .2   .5              .2                   .2              .2                         .2   .2
attentivemix 2       2                  2                         2    -               2                    2               2                          -    -
gridmixup    .2      .2                 1                         .2   -               .2                   -               -                          -    -
"""  # noqa: E501  (a table)
KINDS = {
    "mixup": "MixUp", "cutmix": "CutMix", "fmix": "FMix", "saliencymix": "SaliencyMix", "puzzlemix": "PuzzleMix",
    "comixup": "CoMixup", "manifoldmix": "MixUp", "attentivemix": "AttentiveMix", "gridmixup": "GridMixup",
}  # fmt: skip


def test_alphas() -> None:
    places, *rows = [line.split() for line in ALPHAS.strip().splitlines()]
    found = set()
    for training, *alphas in rows:
        for recipe in (each for each in COMBINED.values() if each.training == training):
            column = next(n for n, place in enumerate(places[1:]) if re.match(place, recipe.base))
            policy = parse(recipe().policy)
            assert (type(policy).__name__, policy.alpha) == (KINDS[training], float(alphas[column])), recipe
            assert recipe().method == ("HiddenMix" if training == "manifoldmix" else "Mixing")
            found.add((training, column))
    assert len(found) == sum(alpha != "-" for _, *alphas in rows for alpha in alphas)


# Sections 1.6 and 1.8, SUMix's configurations and published accuracies: epochs, weight decay, gamma, normalised; top-1
# of the policy alone and with SUMix, for CutMix, SaliencyMix, FMix and ResizeMix.
SUMIX = """
cifar100_resnet18       800 1e-4 .5 T 78.17 79.78 79.12 79.91 79.69 80.20 80.01 80.38
cifar100_resnext50      800 1e-4 .5 T 78.32 79.91 78.77 79.32 79.02 80.79 80.35 80.72
cifar100_wrn28_8        400 1e-3 .5 T 84.45 84.56 84.35 84.58 84.21 84.32 84.87 84.91
cifar100_deit_small     200 .05  .5 T 74.12 75.26 69.78 70.32 70.41 70.69 68.45 68.78
cifar100_swin_tiny      200 .05  .5 T 80.64 80.32 80.40 84.71 80.72 80.73 80.16 80.59
tiny_imagenet_resnet18  400 1e-4 1  T 65.53 65.71 64.60 65.68 63.47 63.69 63.74 65.30
tiny_imagenet_resnext50 400 1e-4 1  T 66.47 68.74 66.55 68.92 65.08 67.12 65.87 67.49
imagenet_resnet18       100 1e-4 .5 F 68.95 69.71 69.16 69.52 69.96 70.48 69.50 69.76
cub200_resnet18         200 5e-4 .5 T 77.70 78.20 75.77 76.98 77.28 79.24 78.50 78.56
cub200_resnext50        200 5e-4 .5 T 83.67 83.71 82.83 82.84 84.06 84.33 84.16 84.23
aircraft_resnet18       200 5e-4 .5 T 78.84 79.72 79.78 79.90 79.36 79.48 78.10 80.29
aircraft_resnext50      200 5e-4 .5 T 84.55 85.84 84.31 84.49 84.10 84.64 84.08 85.12
"""
SUMIX_ROWS = [line.split() for line in SUMIX.strip().splitlines()]


@pytest.mark.parametrize("row", SUMIX_ROWS, ids=[row[0] for row in SUMIX_ROWS])
def test_tables_of_sumix(row: list[str]) -> None:
    base, epochs, decay, gamma, is_norm, *accuracies = row
    names = [
        f"{policy}{sumix}" for policy in ("cutmix", "saliencymix", "fmix", "resizemix") for sumix in ("", "_sumix")
    ]
    for name, accuracy in zip(names, accuracies, strict=True):
        results = COMBINED[f"{base}_{name}"].results
        assert (int(epochs), float(accuracy)) in [result[:2] for result in results], name
    for policy in ("MixUp", "CutMix", "FMix", "SaliencyMix", "ResizeMix", "PuzzleMix"):
        config = RECIPES[f"{base}_{policy.lower()}_sumix"]()
        alpha = {"ResizeMix": "", "MixUp": "alpha=1.0", "PuzzleMix": "alpha=1.0"}.get(policy, "alpha=0.2")
        assert config.policy == f"{policy}({alpha})"
        assert (config.epochs, config.weight_decay, config.lr_min < 1e-5) == (int(epochs), float(decay), True)
        with torch.device("meta"):
            method = build.method(config, models.build("resnet18", 10), 10)
        assert isinstance(method, SUMix)
        assert (method.gamma, method.head is not None) == (float(gamma), is_norm == "T")
    assert {each.base for each in COMBINED.values() if each.training == "cutmix_sumix"} == {
        row[0] for row in SUMIX_ROWS
    }


def test_weight_decay_of_resnext_on_cifar() -> None:
    """Policies that cut were run with more weight decay than those that blend."""
    for data in ("cifar10", "cifar100"):
        decay = {name: RECIPES[f"{data}_resnext50_{name}"]().weight_decay for name in TRAININGS
                 if f"{data}_resnext50_{name}" in RECIPES}  # fmt: skip
        cutting = {name for name, value in decay.items() if value == 5e-4}
        assert cutting == {"cutmix", "fmix", "saliencymix", "resizemix", "attentivemix", "gridmixup"}
        assert set(decay.values()) == {1e-4, 5e-4}


def test_published_results() -> None:
    """The length of a recipe is one that is published, and one number per length and source."""
    for name, recipe in COMBINED.items():
        assert len({(result.epochs, result.source) for result in recipe.results}) == len(recipe.results), name
        lengths = {result.epochs for result in recipe.results}
        assert not lengths or recipe().epochs in lengths or name.endswith("_alignmix")
    top1 = {(name, result.epochs): result.top1 for name, recipe in COMBINED.items() for result in recipe.results}
    expected = {  # from each of the tables, at a corner
        ("cifar10_resnet18_plain", 200): 94.87, ("cifar10_resnext50_samix", 1200): 97.74,
        ("cifar100_resnet18_mixup", 200): 78.52, ("cifar100_resnext50_plain", 1200): 81.32,
        ("cifar100_wrn28_8_puzzlemix", 400): 85.02, ("cifar100_deit_small_samix", 600): 82.49,
        ("cifar100_swin_tiny_transmix", 200): 81.33, ("cifar100_convnext_tiny_mixup_cutmix", 600): 84.12,
        ("imagenet_resnet18_plain", 100): 70.04, ("imagenet_resnext101_resizemix", 100): 80.55,
        ("imagenet_resnet101_samix", 300): 81.10, ("imagenet_resnet50_rsb_a3_mixup_cutmix", 100): 78.08,
        ("imagenet_mobilenet_v2_rsb_a2_samix", 300): 73.42, ("imagenet_deit_tiny_plain", 300): 73.91,
        ("imagenet_convnext_tiny_samix", 300): 82.35, ("imagenet_deit_base_tokenmix", 300): 82.90,
        ("imagenet_pvt_tiny_samix", 300): 76.60, ("imagenet_pvt_small_smmix", 300): 81.03,
        ("imagenet_moganet_tiny_manifoldmix", 300): 79.07, ("cifar100_vit_large_mergemix", 200): 76.19,
        ("cifar100_vit_small_mixpro", 600): 80.02, ("cifar100_deit_base_mixup", 200): 69.66,
        ("tiny_imagenet_resnext50_smoothmix", 400): 69.65, ("aircraft_resnext50_fmix", 200): 84.10,
        ("cars_resnet18_adautomix", 200): 89.19, ("inaturalist2017_resnet18_fmix", 100): 52.01,
        ("inaturalist2018_resnext101_automix", 100): 70.49, ("places205_resnet50_cutmix", 100): 63.75,
    }  # fmt: skip
    assert {key: top1.get(key) for key in expected} == expected


def test_transformers_as_published() -> None:
    configs = {name: recipe() for name, recipe in RECIPES.items()}
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
