"""Reads the published folders of corrupted images: one array file for each corruption, and one of labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mixwell.evaluation.corruptions import FUNCTIONS, SEVERITIES
from mixwell.train.dataset import Split
from mixwell.train.errors import RunError, first_line


def corruptions_in(folder: Path) -> list[str]:
    """Return the corruptions that a folder has files of, in the usual order.

    Raises:
        RunError: There are none, or no labels.
    """
    names = [name for name in FUNCTIONS if (folder / f"{name}.npy").is_file()]
    if not names or not (folder / "labels.npy").is_file():
        raise RunError(f"no corrupted images in {folder}: expected labels.npy and files such as fog.npy")
    return names


def severities(folder: Path, name: str, classes: int) -> Iterator[tuple[int, Split]]:
    """Yield severity and images of one corruption, as in CIFAR-10-C and CIFAR-100-C.

    The file holds uint8 images ``(5 * N, H, W, 3)``, those of severity 1 first.

    Args:
        folder: Where the files are.
        name: The corruption.
        classes: Number of classes of the model.

    Raises:
        RunError: A file is damaged or has another shape, or a label is not a class of the model.
    """
    images, labels = _array(folder / f"{name}.npy"), _array(folder / "labels.npy")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or len(images) % 5 or not len(images):
        raise RunError(
            f"{folder / name}.npy must hold uint8 images of shape (5 * N, H, W, 3), but is {images.dtype} "
            f"{images.shape}"
        )
    count = len(images) // 5
    if labels.shape not in ((count,), (len(images),)) or labels.dtype.kind not in "iu":
        raise RunError(f"{folder / 'labels.npy'} must hold {count} or {len(images)} labels, but has {labels.shape}")
    labels = np.resize(labels, len(images)).astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise RunError(f"{folder / 'labels.npy'} has labels up to {labels.max()}, and the model {classes} classes")
    for severity in SEVERITIES:
        part = slice((severity - 1) * count, severity * count)
        pixels = torch.from_numpy(np.ascontiguousarray(images[part].transpose(0, 3, 1, 2)))
        yield severity, Split(pixels, torch.from_numpy(labels[part].copy()))


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunError(f"cannot read {path}: {first_line(error)}") from None
