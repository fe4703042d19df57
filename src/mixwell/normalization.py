"""How images were normalized, given once and read by everything that computes in pixel values."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from mixwell.ops.pixels import on_host
from mixwell.typecheck import Finite, PositiveFloat
from mixwell.value import Value, set_field


class Normalization(Value):
    """The mean and standard deviation with which images in [0, 1] were normalized, per channel.

    Pass it to a policy call or to a method as ``normalization=``. Saliency from pixels, PuzzleMix, AugMix views,
    adversarial noise and learned masks read it there; none of them has settings of its own for it.

    Args:
        mean: Mean that was subtracted, one number per channel or one number for all, in units of [0, 1].
        std: Standard deviation by which the difference was divided, in the same form; positive.

    Raises:
        ValueError: A number is not finite, ``std`` is not positive, or the numbers of channels differ.

    Example:
        >>> images = IMAGENET.normalize(torch.full((1, 3, 2, 2), 0.5))
        >>> IMAGENET.pixels(images).unique()
        tensor([0.5000])
    """

    mean: Finite | tuple[Finite, ...] = field(default=0.0, kw_only=False)
    std: PositiveFloat | tuple[PositiveFloat, ...] = field(default=1.0, kw_only=False)

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            value = getattr(self, name)
            numbers = tuple(map(float, value)) if isinstance(value, tuple) else (float(value),)
            set_field(self, name, numbers if isinstance(value, tuple) else numbers[0])
            set_field(self, f"_{name}", numbers)
        counts = {len(self._mean), len(self._std)} - {1}
        if len(counts) > 1 or 0 in counts:
            raise ValueError(f"mean and std must have the same number of channels, but got {self.mean} and {self.std}.")

    _mean = (0.0,)
    _std = (1.0,)

    def normalize(self, pixels: Tensor) -> Tensor:
        """Return pixels in [0, 1], shape ``(B, C, H, W)``, as the model's input."""
        mean, std = self.tensors(pixels)
        return (pixels - mean) / std

    def pixels(self, images: Tensor) -> Tensor:
        """Return normalized images, shape ``(B, C, H, W)``, as pixels in [0, 1], float32."""
        mean, std = self.tensors(images)
        return torch.addcmul(mean, images.float(), std)

    def tensors(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, shape ``(C, 1, 1)`` or ``(1, 1, 1)``, float32, on the device of images.

        Raises:
            ValueError: The images have another number of channels.
        """
        for numbers in (self._mean, self._std):
            if len(numbers) not in (1, images.shape[1]):
                raise ValueError(
                    f"{self} has {len(numbers)} channels, but the images have shape {tuple(images.shape)}: use the "
                    "normalization with which these images were made."
                )
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self._mean, self._std))
        return mean.to(images.device, non_blocking=True), std.to(images.device, non_blocking=True)


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# The standard deviation averaged over images, as most published CIFAR recipes have it, for CIFAR-100 too.
CIFAR10 = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = Normalization((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


def pixels_of(images: Tensor, normalization: Normalization | None, user: str) -> Tensor:
    """Return images as pixels in [0, 1], float32.

    Args:
        images: Shape ``(B, C, H, W)``; uint8 images are divided by 255.
        normalization: How float images were normalized; None means that they are in [0, 1].
        user: Name of the caller, for the error.

    Raises:
        ValueError: Without a normalization, images reach outside [0, 1] (checked on the CPU only).

    Example:
        >>> pixels_of(torch.tensor([[[[51]]]], dtype=torch.uint8), None, "FineGrained").item()
        0.20000000298023224
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if normalization is not None:
        return normalization.pixels(images)
    if on_host(images):
        low, high = (float(end) for end in images.detach().aminmax())
        if low < -1e-3 or high > 1 + 1e-3:
            raise ValueError(
                f"{user} computes in pixel values, but these images lie in [{low:.3g}, {high:.3g}]: pass the "
                "normalization with which they were made, as in normalization=mw.IMAGENET, to the policy or the method."
            )
    return images.float()
