"""CIFAR-100 with transformers at 224 pixels, and ConvNeXt at 32: AdamW, label smoothing, batches of 100, 200 epochs.

Weight decay leaves out biases, norms and embeddings, as released. What differs: RandAugment is timm's, of 15 operations
and not 14; warm-up begins at its first step's share of the peak and not at 1e-5 of it. The released runs of 600 epochs
with DeiT have 1000 classes by mistake; here classes are the data's. For ConvNeXt at 32 pixels no augmentation is on
record: crop and flip are those of the other networks of that size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mixwell.losses import CrossEntropy
from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.teacher import Momentum
from mixwell.train.config import Config
from mixwell.train.recipes.learned import FADING, adautomix, automix, samix

DEIT = Config(
    dataset="cifar100", image_size=224, scale=0.8, flip=True, augment="rand-m7-n2-mstd0.5",
    model="timm/deit_small_patch16_224(drop_path_rate=0.1)", epochs=200, batch_size=100, optimizer="adamw", lr=5e-4,
    lr_min=1e-4, warmup=5, weight_decay=0.05, decay_all=False, clip=10.0, workers=8, save_every=5,
)  # fmt: skip
SWIN = replace(DEIT, model="timm/swin_tiny_patch4_window7_224(drop_path_rate=0.2)", warmup=20)
CONVNEXT = replace(
    DEIT, image_size=32, crop=4, scale=0.08, augment="", model="timm/convnext_tiny(drop_path_rate=0.3, patch_size=1)",
    lr=2e-3, warmup=20, clip=0.0, workers=0,
)  # fmt: skip
SHARED: dict[str, Any] = {"momentum": Momentum(end=0.99996, warm=0.25), "loss": CrossEntropy(smoothing=0.1)}
AUTOMIX: dict[str, Any] = {"block": PairAttention(lam_concat=True), "mask_weight": FADING, **SHARED}
SAMIX: dict[str, Any] = {"dropout": 0.1, "mask_weight": FADING, **SHARED}
MERGED = "layers.3.downsample"  # 768 channels of 7 x 7 places, where the released tap is: behind the merging of patches


def block(lr: float) -> dict[str, float]:
    """Return the settings of the block's parameter group."""
    return {"lr": lr, "lr_min": 1e-4}


def cifar100_deit_small_automix() -> Config:
    """AutoMix on CIFAR-100, DeiT-S at 224 pixels."""
    return replace(DEIT, recipe="cifar100_deit_small_automix", **automix(block_group=block(1e-3), **AUTOMIX))


def cifar100_deit_small_samix() -> Config:
    """SAMix on CIFAR-100, DeiT-S at 224 pixels."""
    method = samix(upsampling="nearest", block_group=block(7.5e-4), **SAMIX)
    return replace(DEIT, recipe="cifar100_deit_small_samix", lr=7.5e-4, warmup=20, clip=20.0, **method)


def cifar100_deit_small_adautomix() -> Config:
    """AdAutoMix of three sources on CIFAR-100, DeiT-S at 224 pixels."""
    method = adautomix(upsampling="nearest", sources=3, beta=0.3, block_p=0.8, block_group=block(1e-3), **SHARED)
    return replace(DEIT, recipe="cifar100_deit_small_adautomix", **method)


def cifar100_deit_tiny_adautomix() -> Config:
    """AdAutoMix of three sources on CIFAR-100, DeiT-T at 224 pixels."""
    rates = {"lr": 0.05, "lr_min": 0.005}
    method = adautomix(upsampling="nearest", sources=3, beta=0.3, block_group=rates, **SHARED)
    model = "timm/deit_tiny_patch16_224(drop_path_rate=0.1)"
    return replace(DEIT, recipe="cifar100_deit_tiny_adautomix", model=model, lr=1e-3, lr_min=1e-6, clip=5.0, **method)


def cifar100_deit_base_adautomix() -> Config:
    """AdAutoMix of three sources on CIFAR-100, DeiT-B at 224 pixels."""
    rates = {"lr": 5e-5, "lr_min": 5e-6}
    method = adautomix(lam_concat=False, upsampling="nearest", sources=3, beta=0.3, block_group=rates, **SHARED)
    model = "timm/deit_base_patch16_224(drop_path_rate=0.1)"
    return replace(DEIT, recipe="cifar100_deit_base_adautomix", model=model, lr_min=0.0, clip=5.0, **method)


def cifar100_swin_tiny_automix() -> Config:
    """AutoMix on CIFAR-100, Swin-T at 224 pixels.

    Released runs of 600 epochs scale masks in one of two ways, chosen by chance; that is not offered.
    """
    method = automix(layer=MERGED, block_group=block(1e-3), **AUTOMIX)
    return replace(SWIN, recipe="cifar100_swin_tiny_automix", **method)


def cifar100_swin_tiny_samix() -> Config:
    """SAMix on CIFAR-100, Swin-T at 224 pixels.

    The released settings scale masks to 112 pixels, which cannot run; here masks have the size of the images.
    """
    method = samix(upsampling="nearest", layer=MERGED, block_group=block(5e-4), **SAMIX)
    return replace(SWIN, recipe="cifar100_swin_tiny_samix", clip=20.0, **method)


def cifar100_swin_tiny_adautomix() -> Config:
    """AdAutoMix of two or three sources on CIFAR-100, Swin-T at 224 pixels; without a margin, as released."""
    method = adautomix(
        upsampling="nearest", sources=3, random_sources=True, beta=0.3, margin=0.0, layer=MERGED,
        block_group=block(1e-3), **SHARED,
    )  # fmt: skip
    return replace(SWIN, recipe="cifar100_swin_tiny_adautomix", **method)


def cifar100_convnext_tiny_automix() -> Config:
    """AutoMix on CIFAR-100, ConvNeXt-T at 32 pixels."""
    method = automix(block_group=block(1e-3), **AUTOMIX)
    return replace(CONVNEXT, recipe="cifar100_convnext_tiny_automix", **method)


def cifar100_convnext_tiny_samix() -> Config:
    """SAMix on CIFAR-100, ConvNeXt-T at 32 pixels.

    Runs of 600 epochs have ``--lr 0.002``, and ``"lr": 0.001`` for the block.
    """
    method = samix(block_group=block(7.5e-4), **SAMIX)
    return replace(CONVNEXT, recipe="cifar100_convnext_tiny_samix", lr=1e-3, clip=20.0, **method)
