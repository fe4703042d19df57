"""CIFAR with convolutional networks, 32 pixels: SGD, batches of 100, reflected crop of 4 pixels and flip.

AutoMix and its successors are here as released: the learning rate never falls below half of its peak, and the block has
the classifier's own settings, but for WRN-28-8. Their tables have 200, 400, 800 and 1200 epochs: ``--epochs 800``.
"""

from __future__ import annotations

from dataclasses import replace

from mixwell.train.config import Config
from mixwell.train.recipes.learned import adautomix, automix, samix

PLAIN = Config(
    dataset="cifar100", image_size=32, crop=4, flip=True, model="resnet18", batch_size=100, lr=0.1, weight_decay=1e-4,
    save_every=5,
)  # fmt: skip
LEARNED = replace(PLAIN, epochs=400, lr_min=0.05)
WIDE = replace(LEARNED, model="wide_resnet28_8", lr=0.03, lr_min=1e-3, weight_decay=1e-3)
WIDE_BLOCK = {"lr": 0.03, "momentum": 0.0}


def cifar100_resnet18() -> Config:
    """CutMix + SUMix on CIFAR-100, ResNet-18, 200 epochs (the tables use --epochs 800).

    Cosine to zero per step, weight decay on everything.
    """
    return replace(PLAIN, recipe="cifar100_resnet18", policy="CutMix(alpha=0.2)", method="SUMix", epochs=200)


def cifar10_resnet18() -> Config:
    """The same on CIFAR-10."""
    return replace(cifar100_resnet18(), recipe="cifar10_resnet18", dataset="cifar10")


def cifar100_resnet18_automix() -> Config:
    """AutoMix on CIFAR-100, ResNet-18."""
    return replace(LEARNED, recipe="cifar100_resnet18_automix", **automix())


def cifar100_resnet18_samix() -> Config:
    """SAMix on CIFAR-100, ResNet-18.

    Its bonus for varied masks ends at a variance of 0.1, the released one never. Runs of 800 epochs were released with
    ``mask_adjust=0.25`` besides.
    """
    return replace(LEARNED, recipe="cifar100_resnet18_samix", **samix(k=0.25))


def cifar100_resnet18_adautomix() -> Config:
    """AdAutoMix of three sources on CIFAR-100, ResNet-18."""
    return replace(
        LEARNED, recipe="cifar100_resnet18_adautomix", **adautomix(lam_concat=False, sources=3, beta=0.3)
    )  # fmt: skip


def cifar100_resnext50_automix() -> Config:
    """AutoMix on CIFAR-100, ResNeXt-50."""
    return replace(cifar100_resnet18_automix(), recipe="cifar100_resnext50_automix", model="resnext50_32x4d")


def cifar100_resnext50_samix() -> Config:
    """SAMix on CIFAR-100, ResNeXt-50."""
    return replace(cifar100_resnet18_samix(), recipe="cifar100_resnext50_samix", model="resnext50_32x4d")


def cifar100_resnext50_adautomix() -> Config:
    """AdAutoMix of three sources on CIFAR-100, ResNeXt-50."""
    return replace(cifar100_resnet18_adautomix(), recipe="cifar100_resnext50_adautomix", model="resnext50_32x4d")


def cifar100_wrn28_8_automix() -> Config:
    """AutoMix on CIFAR-100, WRN-28-8; its block learns without momentum."""
    return replace(WIDE, recipe="cifar100_wrn28_8_automix", **automix(block_group=WIDE_BLOCK))


def cifar100_wrn28_8_samix() -> Config:
    """SAMix on CIFAR-100, WRN-28-8; its block learns without momentum."""
    return replace(WIDE, recipe="cifar100_wrn28_8_samix", **samix(k=0.25, block_group=WIDE_BLOCK))
