"""CUB-200 and FGVC-Aircraft, 224 pixels, from ImageNet weights: SGD, batches of 16, 200 epochs.

Data are as published; ``--dataset folder`` reads train/CLASS/*.jpg and test/CLASS/*.jpg. The weights are torchvision's
first, by way of timm; without a network, ``--weights resnet18.pth`` names them as a file. Random crops are cut from the
whole image, not from one made 256 pixels large before. The released Aircraft settings for ResNeXt-50 train AutoMix on
CUB with its 200 classes, by mistake; here the data set decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mixwell.mixers.masks import AreaHinge, SumOf, VarianceBonus
from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.teacher import Momentum
from mixwell.train.config import Config
from mixwell.train.recipes.learned import FADING, adautomix, automix, samix

CUB = Config(
    dataset="cub200", image_size=224, scale=0.5, flip=True, model="timm/resnet18", weights="timm/tv_in1k", epochs=200,
    batch_size=16, lr=1e-3, weight_decay=5e-4, workers=8, save_every=5,
)  # fmt: skip
AIRCRAFT = replace(CUB, dataset="aircraft")
RESNEXT = "timm/resnext50_32x4d"
TEACHER = Momentum(end=0.99999)
SHARED: dict[str, Any] = {
    "pairing": "Derangement()",
    "mask_weight": FADING,
    "block_group": {"lr": 0.01, "lr_min": 5e-4},
}
AUTOMIX: dict[str, Any] = {"block": PairAttention(lam_concat=True), "momentum": TEACHER, **SHARED}
SAMIX: dict[str, Any] = {"k": 1.0, "dropout": 0.1, **SHARED}
ADVERSARIAL: dict[str, Any] = {"sources": 3, "momentum": TEACHER, "block_group": {"lr": 0.1, "lr_min": 1e-3}}


def cub200_resnet18_automix() -> Config:
    """AutoMix on CUB-200, ResNet-18."""
    return replace(CUB, recipe="cub200_resnet18_automix", **automix(**AUTOMIX))


def cub200_resnet18_samix() -> Config:
    """SAMix on CUB-200, ResNet-18."""
    return replace(CUB, recipe="cub200_resnet18_samix", **samix(momentum=TEACHER, **SAMIX))


def cub200_resnet18_adautomix() -> Config:
    """AdAutoMix of two or three sources on CUB-200, ResNet-18."""
    method = adautomix(beta=0.3, random_sources=True, **ADVERSARIAL)
    return replace(CUB, recipe="cub200_resnet18_adautomix", **method)


def cub200_resnet50_adautomix() -> Config:
    """AdAutoMix of three sources on CUB-200, ResNet-50."""
    method = adautomix(beta=0.1, **ADVERSARIAL)
    return replace(CUB, recipe="cub200_resnet50_adautomix", model="timm/resnet50", **method)


def cub200_resnext50_automix() -> Config:
    """AutoMix on CUB-200, ResNeXt-50, whose block is rewarded for mask variance.

    The bonus ends at a variance of 0.1, the released one never.
    """
    method = automix(mask_loss=SumOf((AreaHinge(), VarianceBonus())), **AUTOMIX)
    return replace(CUB, recipe="cub200_resnext50_automix", model=RESNEXT, **method)


def cub200_resnext50_samix() -> Config:
    """SAMix on CUB-200, ResNeXt-50."""
    return replace(cub200_resnet18_samix(), recipe="cub200_resnext50_samix", model=RESNEXT)


def cub200_resnext50_adautomix() -> Config:
    """AdAutoMix of three sources on CUB-200, ResNeXt-50."""
    settings: dict[str, Any] = {**ADVERSARIAL, "block_group": {"lr": 0.1, "lr_min": 5e-4}, "pairing": "Derangement()"}
    return replace(CUB, recipe="cub200_resnext50_adautomix", model=RESNEXT, **adautomix(beta=0.1, **settings))


def aircraft_resnet18_automix() -> Config:
    """AutoMix on FGVC-Aircraft, ResNet-18; as on CUB."""
    return replace(AIRCRAFT, recipe="aircraft_resnet18_automix", **automix(**AUTOMIX))


def aircraft_resnet18_samix() -> Config:
    """SAMix on FGVC-Aircraft, ResNet-18."""
    method = samix(momentum=Momentum(end=0.99996), **SAMIX)
    return replace(AIRCRAFT, recipe="aircraft_resnet18_samix", **method)


def aircraft_resnet18_adautomix() -> Config:
    """AdAutoMix of two or three sources on FGVC-Aircraft, ResNet-18; without a margin, as released."""
    method = adautomix(beta=0.3, random_sources=True, margin=0.0, **ADVERSARIAL)
    return replace(AIRCRAFT, recipe="aircraft_resnet18_adautomix", lr_min=5e-4, **method)


def aircraft_resnext50_automix() -> Config:
    """AutoMix on FGVC-Aircraft, ResNeXt-50; as on CUB."""
    return replace(cub200_resnext50_automix(), recipe="aircraft_resnext50_automix", dataset="aircraft")


def aircraft_resnext50_samix() -> Config:
    """SAMix on FGVC-Aircraft, ResNeXt-50."""
    return replace(aircraft_resnet18_samix(), recipe="aircraft_resnext50_samix", model=RESNEXT)


def aircraft_resnext50_adautomix() -> Config:
    """AdAutoMix of two or three sources on FGVC-Aircraft, ResNeXt-50."""
    method = adautomix(beta=0.6, random_sources=True, **ADVERSARIAL)
    return replace(AIRCRAFT, recipe="aircraft_resnext50_adautomix", model=RESNEXT, **method)
