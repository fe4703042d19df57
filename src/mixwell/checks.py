"""Checks of images, labels and saliency maps; each error is one sentence that says what to do."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

BLENDABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8)


def images_error(images: object) -> Exception:
    """Return what is wrong with images that :func:`mixwell.batch.check_images` refuses."""
    if not isinstance(images, Tensor):
        return TypeError(
            f"images must be a tensor of shape (B, C, H, W), but got {type(images).__name__}: convert them, for "
            "example with torchvision.transforms.v2.ToImage, and collate them into a batch."
        )
    shape = tuple(images.shape)
    if images.dim() != 4 or images.numel() == 0:
        advice = _ADVICE.get(images.dim(), "") if images.numel() else ""
        return ValueError(f"images must have shape (B, C, H, W) and not be empty, but got {shape}{advice}.")
    if images.dtype not in BLENDABLE:
        return TypeError(
            f"images must be floating point or uint8, but got {images.dtype}: convert them, or use "
            "plan.apply_segmentation for maps of class ids."
        )
    return ValueError(
        f"images must have shape (B, C, H, W), but {shape} looks like (B, H, W, C): use images.permute(0, 3, 1, 2)."
    )


_ADVICE = {
    3: (
        ": use images[:, None] for grey images (B, H, W), images[None] for one image (C, H, W), and "
        "AnyShape(policy, dims=1) for signals (B, C, T)"
    ),
    5: (
        ": use AnyShape(policy, dims=2), which mixes all frames of a video alike, or AnyShape(policy, dims=3) for "
        "volumes (B, C, D, H, W)"
    ),
}


def labels_error(labels: object, rows: int) -> Exception:
    """Return what is wrong with labels that :class:`mixwell.Batch` refuses for this many images."""
    if isinstance(labels, Tensor) and labels.is_complex():
        return TypeError(f"labels must be real numbers, but got {labels.dtype}: use class indices (B,), int64.")
    if not isinstance(labels, Tensor):
        return TypeError(f"labels must be a tensor, but got {type(labels).__name__}: {_as_tensor(labels)}.")
    if labels.dim() not in (1, 2):
        return ValueError(f"labels must be class indices (B,) or dense labels (B, N), but got {tuple(labels.shape)}.")
    if labels.shape[0] != rows:
        return ValueError(f"labels must have one entry per image, but got {labels.shape[0]} for {rows} images.")
    if labels.dim() == 1:
        regression = "for regression targets use labels[:, None], dense labels (B, 1)"
        advice = regression if labels.is_floating_point() else "use labels.long()"
        return TypeError(f"class indices (B,) must be int64, but got {labels.dtype}: {advice}.")
    indices = labels.shape[1] == 1 and labels.dtype != torch.bool
    advice = "use labels.squeeze(1) for class indices (B,)" if indices else "use labels.float()"
    return TypeError(f"dense labels (B, N) must be floating point, but got {labels.dtype}: {advice}.")


def _as_tensor(labels: Any) -> str:
    """Say how labels that are not a tensor become one; names of classes, and what holds no labels, do not."""
    first = next(iter(labels), None) if isinstance(labels, Collection) and getattr(labels, "ndim", 1) else None
    if isinstance(first, str):
        return "number the classes, as in torch.tensor([names.index(label) for label in labels])"
    return f"use {'torch.stack' if isinstance(first, Tensor) else 'torch.tensor'}(labels)"


def classes_of(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return labels that can be looked up, and which of them name a class; a loss may ignore the others.

    Args:
        labels: Class indices of any shape.
        num_classes: Number of classes N.

    Returns:
        The labels, 0 where they are not in [0, N), and a boolean tensor of the same shape.

    Example:
        >>> classes_of(torch.tensor([2, -100, 255]), 10)
        (tensor([2, 0, 0]), tensor([ True, False, False]))
    """
    known = (labels >= 0) & (labels < num_classes)
    return labels.where(known, 0), known


def check_saliency(saliency: Tensor, images: Tensor) -> None:
    """Raise unless saliency maps are ``(B, h, w)`` and on the images' device."""
    if not isinstance(saliency, Tensor) or saliency.dim() != 3 or saliency.shape[0] != images.shape[0]:
        got = tuple(saliency.shape) if isinstance(saliency, Tensor) else type(saliency).__name__
        raise ValueError(f"saliency must be maps of shape ({len(images)}, h, w), one per image, but got {got}.")
    check_device("saliency maps", saliency, images)


def check_device(what: str, tensor: Tensor, images: Tensor) -> None:
    """Raise unless a tensor is on the images' device."""
    if tensor.device != images.device:
        raise ValueError(
            f"{what} must be on the images' device, {images.device}, but are on {tensor.device}: use .to()."
        )


def check_generator(generator: torch.Generator) -> None:
    """Raise unless this is a generator, and warn about one that was copied into the workers of a data loader."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, but got {generator!r}.")
    worker = get_worker_info()
    if worker is not None and generator.initial_seed() not in (worker.seed, torch.initial_seed()):
        warnings.warn(
            "A generator that is made before a DataLoader starts its workers is copied into each of them, and all "
            "workers and epochs repeat the same draws: use generator=None, which torch seeds in every worker, or "
            "torch.Generator().manual_seed(torch.initial_seed()) made in the worker.",
            stacklevel=5,
        )


def in_proportion(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Return whether a map ``(h, w)`` is as large as images of this height and width, or coarser by one factor.

    Both sides must shrink by the same factor, up to the rounding of a network that pads or crops.

    Example:
        >>> in_proportion((7, 10), (224, 300)), in_proportion((7, 7), (224, 300))
        (True, False)
    """
    (height, width), (h, w) = size, shape
    alike = height * (w - 1) < width * (h + 1) and width * (h - 1) < height * (w + 1)
    return 1 <= h <= height and 1 <= w <= width and alike
