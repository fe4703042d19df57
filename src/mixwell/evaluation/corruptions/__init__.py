"""The 15 standard corruptions and 4 further ones at 5 severities, as batched torch operations.

Source: Hendrycks and Dietterich, *Benchmarking Neural Network Robustness to Common Corruptions and Perturbations*, ICLR
2019; settings of their CIFAR-C for images up to 64 pixels and of ImageNet-C for larger ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mixwell.evaluation.corruptions import blur, digital, jpeg, noise, weather
from mixwell.evaluation.corruptions.draws import Draws
from mixwell.evaluation.corruptions.severity import LARGE, SMALL

SEVERITIES = (1, 2, 3, 4, 5)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        noise.gaussian_noise, noise.shot_noise, noise.impulse_noise,
        blur.defocus_blur, blur.glass_blur, blur.motion_blur, blur.zoom_blur,
        weather.snow, weather.frost, weather.fog, weather.brightness,
        digital.contrast, digital.elastic_transform, digital.pixelate, jpeg.jpeg_compression,
        noise.speckle_noise, blur.gaussian_blur, weather.spatter, digital.saturate,
    )
}  # fmt: skip
STANDARD, FURTHER = tuple(FUNCTIONS)[:15], tuple(FUNCTIONS)[15:]


def corrupt(pixels: Tensor, name: str, severity: int, *, rows: Tensor | None = None, seed: int = 0) -> Tensor:
    """Corrupt a batch of images.

    Args:
        pixels: Images in [0, 1], shape ``(B, C, H, W)``; they are rounded to 8 bits first, as image files are.
        name: One of ``STANDARD`` and ``FURTHER``.
        severity: 1 to 5.
        rows: Row of each image in its data set, shape ``(B,)``; None for 0 to B - 1. The result depends on the row and
            the seed, not on the rest of the batch. All severities use the same random numbers.
        seed: Source of the random numbers.

    Returns:
        Images in [0, 1] of 8 bits (multiples of 1/255), float32.

    Raises:
        ValueError: The corruption or severity is unknown.

    Example:
        >>> corrupt(torch.full((1, 3, 4, 4), 0.2), "brightness", 5).mean().round(decimals=2).item()
        0.5
    """
    if name not in FUNCTIONS:
        raise ValueError(f"there is no corruption {name!r}: use one of {', '.join(FUNCTIONS)}.")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be a whole number from 1 to 5, but got {severity}.")
    if rows is None:
        rows = torch.arange(len(pixels), device=pixels.device)
    settings = (SMALL if max(pixels.shape[2:]) <= 64 else LARGE)[name][severity - 1]
    pixels = (pixels.float() * 255).round() / 255
    changed = FUNCTIONS[name](pixels, Draws(rows, seed, name), *settings)
    # The published images are cut to whole numbers; the margin keeps whole numbers whole.
    return (changed.clamp(0, 1) * 255 + 1e-3).floor() / 255


def mean_corruption_error(errors: Mapping[str, float], baseline: Mapping[str, float]) -> float:
    """Return the mCE in percent: the mean over corruptions of the error divided by the error of a baseline.

    Args:
        errors: Mean error over the severities, by corruption.
        baseline: The same of the baseline, positive.

    Raises:
        ValueError: The corruptions differ, or the baseline has no error on one of them.

    Example:
        >>> mean_corruption_error({"fog": 20.0, "snow": 30.0}, {"fog": 40.0, "snow": 30.0})
        75.0
    """
    if set(errors) != set(baseline) or not errors:
        raise ValueError(f"expected the same corruptions for both, but got {sorted(errors)} and {sorted(baseline)}.")
    perfect = [name for name, error in baseline.items() if not error > 0]
    if perfect:
        raise ValueError(f"the baseline has no errors on {perfect[0]}, so the ratio is undefined: name another one.")
    return 100 * sum(error / baseline[name] for name, error in errors.items()) / len(errors)
