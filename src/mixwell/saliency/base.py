"""The base of all saliency sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from mixwell.batch import check_images
from mixwell.checks import in_proportion
from mixwell.value import Value


class Saliency(Value, ABC):
    """Computes how important every pixel of every image is.

    A map may be smaller than the image; the policy scales it, or positions in it, to the image's size. Any callable
    ``(model, images, labels) -> maps`` is accepted in place of a source. A source that computes in pixel values sets
    ``uses_normalization = True`` and is then called with ``normalization=`` as a keyword as well.
    """

    uses_normalization: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        """Return the saliency of a batch.

        Args:
            model: The classifier; sources that use pixels only accept None.
            images: Shape ``(B, C, H, W)``.
            labels: Class indices ``(B,)`` or dense labels ``(B, N)``.

        Returns:
            Non-negative maps, shape ``(B, h, w)``, float32.
        """


def network_for(source: Saliency, network: nn.Module | None, images: Tensor) -> nn.Module:
    """Return the network that a source runs.

    Raises:
        ValueError: There is none, or images are not its input: ``(B, C, H, W)``, floating point.
    """
    check_images(images)
    if not images.is_floating_point():
        raise ValueError(
            f"{type(source).__name__} needs floating-point images, the model's input, got {images.dtype}: "
            "pass saliency= maps"
        )
    if network is None:
        teacher = ", give it a teacher" * hasattr(source, "teacher")
        raise ValueError(
            f"{type(source).__name__} needs a model: call the policy with model=...{teacher}, or pass saliency= maps."
        )
    return network


def with_teacher(written: str, teacher: nn.Module | None) -> str:
    """Return the text of a value with the class of its teacher, whose weights cannot be written in text.

    Example:
        >>> with_teacher("Activation(size=224)", nn.Linear(2, 2))
        'Activation(teacher=<Linear>, size=224)'
    """
    if teacher is None:
        return written
    name, settings = written.split("(", 1)
    return f"{name}(teacher=<{type(teacher).__name__}>{'' if settings == ')' else ', '}{settings}"


def check_fit(maps: Tensor, size: tuple[int, int]) -> None:
    """Raise unless given maps ``(B, h, w)`` fit images of this height and width, see :func:`in_proportion`."""
    (height, width), (h, w) = size, maps.shape[1:]
    if not in_proportion((h, w), size):
        raise ValueError(
            f"saliency maps must be as large as the images, {height} x {width}, or coarser in the same proportions, "
            f"but got {h} x {w}: scale them."
        )
