"""Saliency from pixels alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.ops.finegrained import fine_grained
from mixwell.ops.residual import spectral_residual
from mixwell.saliency.base import Saliency, check_rank
from mixwell.value import set_field


class SpectralResidual(Saliency):
    """The unusual part of the image's spectrum, turned back into an image; needs no model.

    Args:
        max_size: Images whose longer side exceeds this are reduced to it first, and the map stays at that size; None
            leaves every image as it is.

    Raises:
        ValueError: ``max_size`` is not positive.

    Note: the published code reduces to a square and scales the map back; here the proportions stay, and the user of
    the map scales it. Reduction moves the peak: on 40 photographs of 224 pixels by 31 pixels in the median, to where
    the map at full size has 0.78 of its largest value.

    Source: Hou and Zhang, *Saliency Detection: A Spectral Residual Approach*, CVPR 2007.

    Example:
        >>> SpectralResidual(max_size=64)(None, torch.rand(2, 3, 100, 200), torch.zeros(2)).shape
        torch.Size([2, 32, 64])
    """

    max_size: int | None = 128

    def __post_init__(self) -> None:
        _check_size(self.max_size)

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        check_rank(images)
        if images.shape[1] == 3:
            red, green, blue = images.unbind(1)
            grey = (red.float() * 0.2989).add_(green.float(), alpha=0.587).add_(blue.float(), alpha=0.114)
        else:
            grey = images.mean(1, dtype=torch.float32)
        return spectral_residual(_reduced(grey[:, None], self.max_size)[:, 0])


class FineGrained(Saliency):
    """Contrast of every pixel with six windows around it, in whole grey levels as OpenCV computes it; needs no model.

    The grey levels need the images as they were before normalisation: give ``mean`` and ``std``, or every image is
    stretched to the full range. Images of dtype uint8 are taken as they are.

    Args:
        mean: What was subtracted from images in [0, 1]: one number, or one for each channel.
        std: What they were divided by then; ``mean=0.0, std=1.0`` says that images are in [0, 1].
        channels: Order in which three channels are weighted. ``"bgr"`` on RGB images repeats the published code.
        wrap: Let sums above 255 wrap around as OpenCV's bytes do.
        max_size: Images whose longer side exceeds this are reduced to it first, and the map stays at that size; None
            leaves every image as it is.

    Raises:
        ValueError: Only one of ``mean`` and ``std`` is given, ``std`` or ``max_size`` is not positive, ``channels`` is
            neither of the two; or, when called, images do not have as many channels as ``mean`` and ``std``.

    Note: the published code of SaliencyMix hands normalised floats to OpenCV, which reads them as bytes; the resulting
    map has nothing to do with the image and is not reproduced. Reduction moves the peak: on 40 photographs of 224
    pixels by 26 pixels in the median, to where the map at full size has 0.92 of its largest value;
    ``max_size=None`` avoids it.

    Source: Montabone and Soto, *Human detection using a mobile platform and novel features derived from a visual
    saliency mechanism*, Image and Vision Computing 2010.

    Example:
        >>> images = torch.zeros(1, 3, 32, 32)
        >>> images[..., 20:24, 8:12] = 1
        >>> divmod(FineGrained()(None, images, torch.zeros(1)).argmax().item(), 32)
        (21, 9)
    """

    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"
    wrap: bool = False
    max_size: int | None = 128

    def __post_init__(self) -> None:
        _check_size(self.max_size)
        if self.channels not in ("rgb", "bgr"):
            raise ValueError(f'channels must be "rgb" or "bgr", got {self.channels!r}')
        if self.mean is None or self.std is None:
            if self.mean is not self.std:
                raise ValueError(
                    f"mean and std go together, got mean={self.mean} and std={self.std}: give both or neither"
                )
            return
        for name, value in (("mean", self.mean), ("std", self.std)):
            set_field(self, name, value if isinstance(value, (int, float)) else tuple(value))
        if min(_per_channel(self.std, 1)) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        check_rank(images)
        return fine_grained(self._grey(self._levels(images)), self.wrap)

    def _levels(self, images: Tensor) -> Tensor:
        """Return every channel in whole levels from 0 to 255, reduced in size."""
        small = _reduced(images, self.max_size)
        if not images.is_floating_point():
            return small.round()
        if self.mean is None or self.std is None:
            low, high = small.amin((1, 2, 3), keepdim=True), small.amax((1, 2, 3), keepdim=True)
            span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)  # flat images become 0, not 0 / 0
            return (small - low).div_(span).mul_(255).round_()
        # As numbers, because a tensor of them would have to be sent to the device.
        mean, std = (_per_channel(value, images.shape[1]) for value in (self.mean, self.std))
        if {len(mean), len(std)} != {images.shape[1]}:
            raise ValueError(
                f"mean and std must be one number or {images.shape[1]} numbers for images of shape "
                f"{tuple(images.shape)}, got {len(mean)} and {len(std)}"
            )
        levels = small.clone()
        for channel, shift, scale in zip(levels.unbind(1), mean, std, strict=True):
            channel.mul_(255 * scale).add_(255 * shift)
        return levels.round_().clamp_(0, 255)

    def _grey(self, levels: Tensor) -> Tensor:
        """Weight three channels as OpenCV does, in units of 2**-15 (exact in float32); average any other number."""
        if levels.shape[1] != 3:
            return levels.mean(1).round_()
        red, green, blue = levels.unbind(1) if self.channels == "rgb" else levels.flip(1).unbind(1)
        return (red * 9798).add_(green, alpha=19235).add_(blue, alpha=3735).add_(2**14).div_(2**15).floor_()


def _reduced(images: Tensor, max_size: int | None) -> Tensor:
    """Return float32 images whose longer side is at most ``max_size``."""
    height, width = images.shape[2:]
    longer = max(height, width)
    if max_size is None or longer <= max_size:
        return images.float()
    size = [max(1, round(side * max_size / longer)) for side in (height, width)]
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)


def _per_channel(value: float | Sequence[float], count: int) -> Sequence[float]:
    return (value,) * count if isinstance(value, (int, float)) else value


def _check_size(max_size: int | None) -> None:
    if max_size is not None and max_size < 1:
        raise ValueError(f"max_size must be positive or None, got {max_size}")
