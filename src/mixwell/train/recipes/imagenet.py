"""ImageNet, 224 pixels: residual networks with SGD, transformers and ConvNeXt with AdamW and DeiT's augmentation.

The folder holds train/CLASS/*.JPEG and val/CLASS/*.JPEG. Batches are those of all GPUs together, ``torchrun`` shares
them out. Warm-up begins at its first step's share of the peak and not at 1e-5 of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mixwell.losses import CrossEntropy
from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.teacher import Momentum
from mixwell.train.config import Config
from mixwell.train.recipes.learned import FADING, adautomix, automix, samix

RESNET = Config(
    dataset="folder", image_size=224, flip=True, model="timm/resnet50", epochs=100, batch_size=256, lr=0.1,
    weight_decay=1e-4, workers=8,
)  # fmt: skip
DEIT = Config(
    dataset="folder", image_size=224, flip=True, augment="rand-m9-mstd0.5-inc1", erasing=0.25,
    model="timm/deit_small_patch16_224(drop_path_rate=0.1)", epochs=300, batch_size=1024, optimizer="adamw", lr=1e-3,
    lr_min=1e-5, warmup=5, weight_decay=0.05, decay_all=False, clip=5.0, workers=8,
)  # fmt: skip
SHARED: dict[str, Any] = {"momentum": Momentum(end=0.99999), "block_group": {"lr": 0.1, "lr_min": 1e-3}}
CONCAT: dict[str, Any] = {"block": PairAttention(lam_concat=True), "mask_weight": FADING}
TOKENS: dict[str, Any] = {
    **CONCAT,
    "momentum": Momentum(end=0.99999, warm=0.25),
    "loss": CrossEntropy(smoothing=0.1),
    "block_p": 0.8,
    "block_group": {"lr": 1e-3, "lr_min": 1e-4},
}


def imagenet_resnet50_automix() -> Config:
    """AutoMix on ImageNet, ResNet-50, 100 epochs (or 300), or --model timm/resnet18, 34, 101, resnext101_32x4d.

    Settings are the same for all five, and for iNaturalist, where the block's ``lr_min`` is 1e-4 with the larger ones.
    """
    return replace(RESNET, recipe="imagenet_resnet50_automix", **automix(**CONCAT, **SHARED))


def imagenet_resnet50_samix() -> Config:
    """SAMix on ImageNet, ResNet-50, 100 epochs (or 300); other networks as for AutoMix."""
    method = samix(dropout=0.1, mask_weight=FADING, **SHARED)
    return replace(RESNET, recipe="imagenet_resnet50_samix", **method)


def imagenet_resnet50_adautomix() -> Config:
    """AdAutoMix of two sources on ImageNet, ResNet-50, 100 epochs; queries and keys are normalised."""
    method = adautomix(norm="batch", sources=2, beta=0.1, **SHARED)
    return replace(RESNET, recipe="imagenet_resnet50_adautomix", **method)


def imagenet_resnet18_adautomix() -> Config:
    """AdAutoMix of two sources on ImageNet, ResNet-18 or --model timm/resnet34, 100 epochs."""
    method = adautomix(sources=2, beta=0.1, **SHARED)
    return replace(RESNET, recipe="imagenet_resnet18_adautomix", model="timm/resnet18", **method)


def imagenet_deit_small_automix() -> Config:
    """AutoMix on ImageNet, DeiT-S, 300 epochs.

    In half precision queries and keys were released with ``PairAttention(lam_concat=True, norm="layer")``.
    """
    return replace(DEIT, recipe="imagenet_deit_small_automix", **automix(**TOKENS))


def imagenet_swin_tiny_automix() -> Config:
    """AutoMix on ImageNet, Swin-T, 300 epochs.

    The block reads the map behind the merging of patches, as released. The released settings scale its masks to 112
    pixels, which cannot run; here they have the size of the images.
    """
    model = "timm/swin_tiny_patch4_window7_224(drop_path_rate=0.2)"
    method = automix(layer="layers.3.downsample", **TOKENS)
    return replace(DEIT, recipe="imagenet_swin_tiny_automix", model=model, warmup=20, **method)


def imagenet_convnext_tiny_automix() -> Config:
    """AutoMix on ImageNet, ConvNeXt-T, 300 epochs.

    The released settings expect 768 channels where there are 384, which cannot run; here they are read off the network.
    """
    changed: dict[str, Any] = {
        "momentum": Momentum(end=0.99996, warm=0.25),
        "block_group": {"lr": 4e-3, "lr_min": 1e-4},
    }
    return replace(
        DEIT, recipe="imagenet_convnext_tiny_automix", model="timm/convnext_tiny(drop_path_rate=0.1)",
        batch_size=4096, accumulate=4, lr=4e-3, lr_min=1e-6, warmup=20, clip=0.0, **automix(**{**TOKENS, **changed}),
    )  # fmt: skip
