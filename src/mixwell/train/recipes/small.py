"""Recipes to start with: seconds, minutes, the recipe of the papers, and any folder of images."""

from __future__ import annotations

from dataclasses import replace

from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.teacher import Momentum
from mixwell.train.config import Config
from mixwell.train.recipes.bases import BASES
from mixwell.train.recipes.learned import automix


def digits() -> Config:
    """Handwritten digits of scikit-learn: 300 real images, no download, seconds on a CPU.

    The 900 first images are the pool that the 300 come from, the other 897 (other writers) the test set.
    """
    return Config(
        recipe="digits", dataset="digits", subset=300, image_size=16, crop=1, model="mini_resnet",
        epochs=30, batch_size=50, lr=0.05, warmup=2, weight_decay=5e-4,
    )  # fmt: skip


def cifar100_mini() -> Config:
    """A real CIFAR-100 experiment in 8 minutes on two CPU cores: 100 images of each class, all test images.

    The time is that of SUMix; ``cifar100_mini_automix`` takes about twice as long.
    """
    return Config(
        recipe="cifar100_mini", dataset="cifar100", subset=10_000, image_size=32, crop=4, flip=True,
        model="mini_resnet", policy="CutMix(alpha=0.2)", method="SUMix",
        epochs=30, batch_size=100, lr=0.1, warmup=1, weight_decay=5e-4, channels_last=True, val_every=5,
    )  # fmt: skip


def cifar100_mini_automix() -> Config:
    """AutoMix in the same experiment, with settings for 3,000 steps instead of the released 100,000.

    With the released settings of CIFAR, masks are still even after so few steps and independent of the ratio. Here the
    teacher follows the classifier thirty times as fast, the block receives the ratio and normalizes queries and keys,
    ratios are drawn per sample, and the area penalty on masks has ten times the weight.
    """
    settings = automix(
        "MixUp(alpha=2.0, scope='sample')",
        block=PairAttention(lam_concat=True, norm="layer"),
        mask_weight=1.0,
        momentum=Momentum(base=0.97, end=0.9999),
    )
    return replace(cifar100_mini(), recipe="cifar100_mini_automix", **settings)


def cifar100_resnet18() -> Config:
    """CutMix + SUMix on CIFAR-100, ResNet-18, 200 epochs; ``cifar100_resnet18_cutmix_sumix`` has 800."""
    return _sumix("cifar100_resnet18")


def cifar10_resnet18() -> Config:
    """CutMix + SUMix on CIFAR-10, ResNet-18, 200 epochs."""
    return _sumix("cifar10_resnet18")


def _sumix(base: str) -> Config:
    return replace(BASES[base], recipe=base, policy="CutMix(alpha=0.2)", method="SUMix", epochs=200)


def folder() -> Config:
    """Any folder of images, train/CLASS/*.jpg and val/CLASS/*.jpg (or test/), with a backbone of timm."""
    return Config(
        recipe="folder", dataset="folder", image_size=224, flip=True, model="timm/resnet18", policy="CutMix(alpha=0.2)",
        method="Mixing", epochs=100, batch_size=64, lr=0.05, warmup=5, weight_decay=1e-4, workers=2,
    )  # fmt: skip


SMALL = (digits, cifar100_mini, cifar100_mini_automix, cifar100_resnet18, cifar10_resnet18, folder)
