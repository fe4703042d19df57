"""Tiny-ImageNet, 64 pixels, with the networks of CIFAR: SGD, batches of 100, 400 epochs.

Data are as published; ``--dataset folder`` reads train/CLASS/*.JPEG and val/CLASS/*.JPEG. ResNeXt-50 was
released for two GPUs of 50 images each.
"""

from __future__ import annotations

from dataclasses import replace

from mixwell.train.config import Config
from mixwell.train.recipes.learned import adautomix, automix, samix

TINY = Config(
    dataset="tiny_imagenet", image_size=64, eval_crop=1.0, flip=True, model="resnet18", epochs=400, batch_size=100,
    lr=0.2, lr_min=0.05, weight_decay=1e-4, workers=8, save_every=5,
)  # fmt: skip
RESNEXT = "resnext50_32x4d"
BLOCK = {"lr": 0.1, "lr_min": 1e-3}


def tiny_imagenet_resnet18_automix() -> Config:
    """AutoMix on Tiny-ImageNet, ResNet-18."""
    return replace(TINY, recipe="tiny_imagenet_resnet18_automix", **automix(block_group=BLOCK))


def tiny_imagenet_resnet18_samix() -> Config:
    """SAMix on Tiny-ImageNet, ResNet-18."""
    return replace(TINY, recipe="tiny_imagenet_resnet18_samix", **samix(block_group=BLOCK))


def tiny_imagenet_resnet18_adautomix() -> Config:
    """AdAutoMix of three sources on Tiny-ImageNet, ResNet-18; learning rates fall to zero, as released."""
    method = adautomix(lam_concat=False, sources=3, beta=0.4, block_group={"lr": 0.1})
    return replace(TINY, recipe="tiny_imagenet_resnet18_adautomix", lr_min=0.0, **method)


def tiny_imagenet_resnext50_automix() -> Config:
    """AutoMix on Tiny-ImageNet, ResNeXt-50."""
    return replace(tiny_imagenet_resnet18_automix(), recipe="tiny_imagenet_resnext50_automix", model=RESNEXT)


def tiny_imagenet_resnext50_samix() -> Config:
    """SAMix on Tiny-ImageNet, ResNeXt-50; the ratio is eased, unlike for ResNet-18."""
    method = samix(k=0.25, block_group=BLOCK)
    return replace(TINY, recipe="tiny_imagenet_resnext50_samix", model=RESNEXT, **method)


def tiny_imagenet_resnext50_adautomix() -> Config:
    """AdAutoMix of three sources on Tiny-ImageNet, ResNeXt-50."""
    method = adautomix(lam_concat=False, sources=3, beta=0.4, block_group=BLOCK)
    return replace(TINY, recipe="tiny_imagenet_resnext50_adautomix", model=RESNEXT, **method)
