"""Images, labels and saliency maps that do not fit are refused in one sentence each."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.ops.pixels import on_host

BLENDABLE = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8)


def check_images(images: Tensor) -> None:
    """Raise unless images are ``(B, C, H, W)`` of a type that can be mixed."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a tensor of shape (B, C, H, W), but got {type(images).__name__}.")
    if images.dim() != 4 or images.numel() == 0:
        raise ValueError(f"images must have shape (B, C, H, W) with nothing empty, but got {tuple(images.shape)}.")
    if images.dtype not in BLENDABLE:
        raise TypeError(
            f"images must be floating point or uint8, but got {images.dtype}; convert them, or use "
            "plan.apply_segmentation for maps of class ids."
        )


def check_labels(labels: Tensor, rows: int) -> None:
    """Raise unless labels are class indices ``(B,)`` or dense labels ``(B, N)`` for ``rows`` images."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor, but got {type(labels).__name__}; use torch.tensor(labels).")
    if labels.dim() not in (1, 2):
        raise ValueError(f"labels must be class indices (B,) or dense labels (B, N), but got {tuple(labels.shape)}.")
    if labels.shape[0] != rows:
        raise ValueError(f"labels must have one entry per image, but got {labels.shape[0]} for {rows} images.")
    if labels.dim() == 1 and labels.dtype != torch.int64:
        raise TypeError(
            f"class indices must be int64, but got {labels.dtype}; use labels.long(), or dense labels (B, N)."
        )
    if labels.dim() == 2 and not labels.is_floating_point():
        raise TypeError(f"dense labels (B, N) must be floating point, but got {labels.dtype}; use labels.float().")


def check_saliency(saliency: Tensor, images: Tensor) -> None:
    """Raise unless saliency maps are ``(B, h, w)`` where the images are."""
    if not isinstance(saliency, Tensor) or saliency.dim() != 3 or saliency.shape[0] != images.shape[0]:
        got = tuple(saliency.shape) if isinstance(saliency, Tensor) else type(saliency).__name__
        raise ValueError(f"saliency must be maps of shape ({len(images)}, h, w), one per image, but got {got}.")
    check_device("saliency maps", saliency, images)


def check_device(what: str, tensor: Tensor, images: Tensor) -> None:
    """Raise unless a tensor is where the images are."""
    if tensor.device != images.device:
        raise ValueError(
            f"{what} must be on the images' device, {images.device}, but are on {tensor.device}: use .to()."
        )


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Raise if a label is no class below ``num_classes``; indices on a GPU are not read, as that would stall it."""
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, but got {num_classes}.")
    if labels.dim() == 3:
        if labels.shape[2] != num_classes:
            raise ValueError(f"dense labels have {labels.shape[2]} classes, but {num_classes} are expected.")
    elif on_host(labels) and not torch.compiler.is_compiling():
        low, high = labels.aminmax()
        if low < 0 or high >= num_classes:
            raise ValueError(
                f"labels must lie between 0 and {num_classes - 1}, but got {int(low)} to {int(high)}; check "
                "num_classes."
            )


def in_proportion(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Tell whether a map ``(h, w)`` can show images of this height and width: as large, or coarser alike.

    The step from place to place must be the same in both directions, up to the rounding of a network that pads or cuts.

    Example:
        >>> in_proportion((7, 10), (224, 300)), in_proportion((7, 7), (224, 300))
        (True, False)
    """
    (height, width), (h, w) = size, shape
    alike = height * (w - 1) < width * (h + 1) and width * (h - 1) < height * (w + 1)
    return 1 <= h <= height and 1 <= w <= width and alike
