"""Reads published corrupted images: array files as in CIFAR-10-C, or image folders as in ImageNet-C."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mixwell.evaluation.corruptions import FUNCTIONS, SEVERITIES
from mixwell.train.dataset import Split, match_classes
from mixwell.train.errors import RunError, first_line
from mixwell.train.image_folder import class_names, read_split


def corruptions_in(folder: Path) -> list[str]:
    """Return the corruptions that a folder has files or folders of, in the usual order.

    Raises:
        RunError: There are none, or array files without labels.
    """
    arrays = [name for name in FUNCTIONS if (folder / f"{name}.npy").is_file()]
    names = arrays or [name for name in FUNCTIONS if (folder / name / "1").is_dir()]
    if not names or (arrays and not (folder / "labels.npy").is_file()):
        raise RunError(
            f"no corrupted images in {folder}: expected labels.npy and files such as fog.npy, or folders such as "
            f"{Path('fog', '1', 'CLASS')}"
        )
    return names


def severities(folder: Path, name: str, classes: Sequence[str]) -> Iterator[tuple[int, Split]]:
    """Yield severity and images of one corruption.

    As in CIFAR-10-C, ``name.npy`` holds uint8 images ``(5 * N, H, W, 3)``, those of severity 1 first. As in ImageNet-C,
    the images of a severity are files in ``name/SEVERITY/CLASS``.

    Args:
        folder: Where they are.
        name: The corruption.
        classes: Classes of the model.

    Raises:
        RunError: A file is damaged or has another shape, or the classes are not those of the model.
    """
    if (folder / f"{name}.npy").is_file():
        yield from _arrays(folder, name, len(classes))
        return
    for severity in SEVERITIES:
        root = folder / name / str(severity)
        found = class_names(root)
        yield severity, match_classes(read_split(root, found, Counter()), found, classes)


def _arrays(folder: Path, name: str, classes: int) -> Iterator[tuple[int, Split]]:
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
