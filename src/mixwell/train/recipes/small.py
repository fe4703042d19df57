"""Recipes to start with: seconds, minutes, and any folder of images."""

from __future__ import annotations

from mixwell.train.config import Config


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

    About 8 minutes with SUMix, 15 with AutoMix.
    """
    return Config(
        recipe="cifar100_mini", dataset="cifar100", subset=10_000, image_size=32, crop=4, flip=True,
        model="mini_resnet", policy="CutMix(alpha=0.2)", method="SUMix",
        epochs=30, batch_size=100, lr=0.1, warmup=1, weight_decay=5e-4, channels_last=True, val_every=5,
    )  # fmt: skip


def folder() -> Config:
    """Any folder of images, train/CLASS/*.jpg and val/CLASS/*.jpg (or test/), with a backbone of timm."""
    return Config(
        recipe="folder", dataset="folder", image_size=224, flip=True, model="timm/resnet18", policy="CutMix(alpha=0.2)",
        method="Mixing", epochs=100, batch_size=64, lr=0.05, warmup=5, weight_decay=1e-4, workers=2,
    )  # fmt: skip
