"""What a saliency source is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from mixwell.checks import in_proportion
from mixwell.value import Value


class Saliency(Value, ABC):
    """Says how important every pixel of every image is.

    A map may be smaller than the image; whoever uses it scales positions, or the map, to the image's size. Any callable
    with the same arguments and result serves as well.
    """

    @abstractmethod
    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return the saliency of a batch.

        Args:
            model: The classifier; sources that look at pixels alone take None.
            images: Shape ``(B, C, H, W)``.
            labels: Class indices ``(B,)`` or dense labels ``(B, N)``.

        Returns:
            Non-negative maps, shape ``(B, h, w)``, float32.
        """


def check_rank(images: Tensor) -> None:
    """Raise unless images are ``(B, C, H, W)``."""
    if images.ndim != 4:
        raise ValueError(f"images must have shape (B, C, H, W), got {tuple(images.shape)}")


def check_floating(source: Saliency, images: Tensor) -> None:
    """Raise unless images are as the model takes them."""
    if not images.is_floating_point():
        raise ValueError(
            f"{type(source).__name__} needs floating-point images as the model takes them, got {images.dtype}: "
            "pass saliency= maps"
        )


def check_fit(maps: Tensor, size: tuple[int, int]) -> None:
    """Raise unless given maps ``(B, h, w)`` fit images of this height and width, see :func:`in_proportion`."""
    (height, width), (h, w) = size, maps.shape[1:]
    if not in_proportion((h, w), size):
        raise ValueError(
            f"saliency maps must be as large as the images, {height} x {width}, or coarser in the same proportions, "
            f"but got {h} x {w}: scale them."
        )
