"""Saliency from pixels alone."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import check_images
from mixwell.normalization import Normalization, pixels_of
from mixwell.ops.finegrained import fine_grained
from mixwell.ops.residual import spectral_residual
from mixwell.saliency.base import Saliency
from mixwell.typecheck import PositiveInt


class SpectralResidual(Saliency):
    """Amplitudes of the image's spectrum that differ from their neighbours, as an image; needs no model.

    Args:
        max_size: Images whose longer side exceeds this are resized to it first, and the map keeps that size; None
            keeps every image's size.

    Raises:
        ValueError: ``max_size`` is not positive.

    Note: the published code resizes to a square and scales the map back; here the aspect ratio is kept, and the policy
    scales the map. Resizing moves the peak: on 40 photographs of 224 pixels by 31 pixels in the median, to a place
    where the map at full size has 0.78 of its largest value.

    Source: Hou and Zhang, *Saliency Detection: A Spectral Residual Approach*, CVPR 2007.

    Example:
        >>> SpectralResidual(max_size=64)(None, torch.rand(2, 3, 100, 200), torch.zeros(2)).shape
        torch.Size([2, 32, 64])
    """

    max_size: PositiveInt | None = 128

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        check_images(images)
        if images.shape[1] == 3:
            red, green, blue = images.unbind(1)
            grey = (red.float() * 0.2989).add_(green.float(), alpha=0.587).add_(blue.float(), alpha=0.114)
        else:
            grey = images.mean(1, dtype=torch.float32)
        return spectral_residual(_reduced(grey[:, None], self.max_size)[:, 0])


class FineGrained(Saliency):
    """Contrast of every pixel with six windows around it, in whole grey levels as OpenCV computes it; needs no model.

    Grey levels need pixel values: float images are in [0, 1], or ``normalization=`` of the policy call or method says
    how they were normalized. Images of dtype uint8 are used as they are.

    Args:
        channels: Order of the three channels for their weights. ``"bgr"`` on RGB images reproduces the published code.
        wrap: Let sums above 255 wrap around, as OpenCV's bytes do.
        max_size: Images whose longer side exceeds this are resized to it first, and the map keeps that size; None
            keeps every image's size.

    Raises:
        ValueError: ``max_size`` is not positive, or ``channels`` is neither of the two; or, when called, float images
            lie outside [0, 1] and there is no normalization (checked on the CPU only).

    Note: the published code of SaliencyMix passes normalized floats to OpenCV, which reads them as bytes; the resulting
    map is unrelated to the image and is not reproduced. Resizing moves the peak: on 40 photographs of 224 pixels by 26
    pixels in the median, to a place where the map at full size has 0.92 of its largest value; ``max_size=None`` avoids
    it.

    Source: Montabone and Soto, *Human detection using a mobile platform and novel features derived from a visual
    saliency mechanism*, Image and Vision Computing 2010.

    Example:
        >>> images = torch.zeros(1, 3, 32, 32)
        >>> images[..., 20:24, 8:12] = 1
        >>> divmod(FineGrained()(None, images, torch.zeros(1)).argmax().item(), 32)
        (21, 9)
    """

    channels: Literal["rgb", "bgr"] = "rgb"
    wrap: bool = False
    max_size: PositiveInt | None = 128

    uses_normalization = True

    def __call__(
        self, model: nn.Module | None, images: Tensor, labels: Tensor, normalization: Normalization | None = None
    ) -> Tensor:
        check_images(images)
        small = _reduced(images, self.max_size)
        if images.dtype != torch.uint8:
            small = pixels_of(small, normalization, "FineGrained") * 255
        return fine_grained(self._grey(small.round().clamp_(0, 255)), self.wrap)

    def _grey(self, levels: Tensor) -> Tensor:
        """Weight three channels as OpenCV does, in units of 2**-15 (exact in float32); average any other number."""
        if levels.shape[1] != 3:
            return levels.mean(1).round_()
        red, green, blue = levels.unbind(1) if self.channels == "rgb" else levels.flip(1).unbind(1)
        return (red * 9798).add_(green, alpha=19235).add_(blue, alpha=3735).add_(2**14).div_(2**15).floor_()


def _reduced(images: Tensor, max_size: int | None) -> Tensor:
    """Return float32 images, resized so that the longer side is at most ``max_size``."""
    height, width = images.shape[2:]
    longer = max(height, width)
    if max_size is None or longer <= max_size:
        return images.float()
    size = [max(1, round(side * max_size / longer)) for side in (height, width)]
    return F.interpolate(images.float(), size, mode="bilinear", antialias=True)
