"""Weather: snow, frost, fog, brightness and spatter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.evaluation.corruptions.draws import Draws
from mixwell.evaluation.corruptions.filters import correlate, gaussian, motion, zoomed
from mixwell.ops.augmentations import grey

WATER, MUD, ICE = (175 / 255, 238 / 255, 238 / 255), (63 / 255, 42 / 255, 20 / 255), (0.85, 0.93, 1.0)


def brightness(pixels: Tensor, draws: Draws, more: float) -> Tensor:
    """Raise the value of each pixel in the HSV colour space."""
    value = pixels.amax(1, keepdim=True)
    brighter = (value + more).clamp(0, 1)
    return torch.where(value > 0, pixels * brighter / value.clamp_min(1e-6), brighter)


def fog(pixels: Tensor, draws: Draws, amount: float, decay: float) -> Tensor:
    """Add a cloud, see :func:`plasma`, and scale the result back to the image's maximum."""
    H, W = pixels.shape[2:]
    side = 1 << (max(H, W) - 1).bit_length()
    highest = pixels.amax((1, 2, 3), keepdim=True)
    cloud = plasma(draws.uniform(side * side), side, decay)[:, None, :H, :W]
    return (pixels + amount * cloud) * highest / (highest + amount)


def plasma(uniform: Tensor, side: int, decay: float) -> Tensor:
    """Return a random cloud by the diamond-square algorithm, scaled to [0, 1].

    Args:
        uniform: Numbers in (0, 1), shape ``(B, side * side)``.
        side: A power of two; the cloud repeats beyond it.
        decay: How much smoother small structures are than large ones.

    Returns:
        Shape ``(B, side, side)``.
    """
    cloud = torch.zeros(len(uniform), side, side, device=uniform.device)
    step, swing, used = side, 100.0, 0

    def disturbed(total: Tensor) -> Tensor:
        nonlocal used
        count = total.shape[1] * total.shape[2]
        noise = uniform[:, used : used + count].view_as(total)
        used += count
        return total / 4 + swing * swing * (2 * noise - 1)

    while step >= 2:
        half = step // 2
        corner = cloud[:, ::step, ::step]
        total = corner + corner.roll(-1, 1)
        cloud[:, half::step, half::step] = disturbed(total + total.roll(-1, 2))
        centre, corner = cloud[:, half::step, half::step], cloud[:, ::step, ::step]
        cloud[:, ::step, half::step] = disturbed(centre + centre.roll(1, 1) + corner + corner.roll(-1, 2))
        cloud[:, half::step, ::step] = disturbed(centre + centre.roll(1, 2) + corner + corner.roll(-1, 1))
        step, swing = half, swing / decay
    cloud = cloud - cloud.amin((1, 2), keepdim=True)
    return cloud / cloud.amax((1, 2), keepdim=True).clamp_min(1e-6)


def frost(pixels: Tensor, draws: Draws, image: float, ice: float) -> Tensor:
    """Add a texture of ice crystals.

    The published images use five photographs of ice. Here the texture is made of the ridges of two clouds, so figures
    for frost are not comparable with those on the published images.
    """
    H, W = pixels.shape[2:]
    side = 1 << (max(H, W) - 1).bit_length()
    clouds = [plasma(draws.uniform(side * side), side, 1.6)[:, None, :H, :W] for _ in range(2)]
    ridges = torch.maximum(*(1 - (2 * cloud - 1).abs() for cloud in clouds)) ** 2
    return image * pixels + ice * ridges * coloured(ICE, pixels)


def snow(
    pixels: Tensor, draws: Draws, mean: float, deviation: float, zoom: float, least: float, radius: int, sigma: float,
    image: float,
) -> Tensor:  # fmt: skip
    """Brighten the image and add flakes that fall in a random direction."""
    H, W = pixels.shape[2:]
    flakes = zoomed(mean + deviation * draws.normal(1, H, W), zoom)
    flakes = torch.where(flakes < least, 0, flakes).clamp(0, 1)
    flakes = (flakes * 255).floor() / 255
    flakes = (motion(flakes, radius, sigma, -135 + 90 * draws.uniform()) * 255).round() / 255
    bright = pixels.maximum(grey(pixels) * 1.5 + 0.5)
    return image * pixels + (1 - image) * bright + flakes + flakes.flip(2, 3)


def spatter(
    pixels: Tensor, draws: Draws, mean: float, deviation: float, sigma: float, least: float, amount: float, mud: int
) -> Tensor:
    """Put drops of water, or of mud, on the image.

    Drops of water are lit by their shape: the distance to the rim, embossed. The published images take the rim from
    Canny's edge detector; here it is the outermost pixels of a drop.
    """
    liquid = gaussian(mean + deviation * draws.normal(1, *pixels.shape[2:]), sigma)
    liquid = torch.where(liquid < least, 0, liquid)
    if mud:
        cover = gaussian((liquid > least).to(pixels.dtype), amount)
        cover = torch.where(cover < 0.8, 0, cover)
        return pixels * (1 - cover) + coloured(MUD, pixels) * cover
    light = (liquid * 255).floor() * emboss(rim_distance(liquid > 0))
    light = light / light.amax((1, 2, 3), keepdim=True).clamp_min(1e-6) * amount
    return pixels + light * coloured(WATER, pixels)


def rim_distance(drops: Tensor, longest: int = 20) -> Tensor:
    """Return the distance of each pixel to the nearest outermost pixel of a drop, at most ``longest``."""
    inner = -F.max_pool2d(-drops.float(), 3, 1, 1)
    squared = torch.where((drops.float() - inner) > 0, 0.0, float(longest * longest))
    for dim in (2, 3):
        size, best = squared.shape[dim], squared
        for shift in range(1, min(longest, size - 1) + 1):
            near, far = squared.narrow(dim, 0, size - shift), squared.narrow(dim, shift, size - shift)
            edge = torch.full_like(squared.narrow(dim, 0, shift), torch.inf)
            best = best.minimum(torch.cat([far, edge], dim) + shift * shift)
            best = best.minimum(torch.cat([edge, near], dim) + shift * shift)
        squared = best
    return squared.clamp_max(longest * longest).sqrt()


def emboss(distance: Tensor) -> Tensor:
    """Smooth, spread over all grey levels, and light a map of distances from the top left."""
    box = torch.full((3, 3), 1 / 9)
    level = equalised((correlate(distance, box) + 1e-3).floor())
    light = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
    return correlate(correlate(level, light).clamp(0, 255), box).round()


def equalised(level: Tensor) -> Tensor:
    """Equalise the histogram of each image of whole numbers from 0 to 255, shape ``(B, 1, H, W)``."""
    flat = level.flatten(1).long()
    counts = torch.zeros(len(flat), 256, device=flat.device).scatter_add_(1, flat, torch.ones_like(flat).float())
    below = counts.cumsum(1)
    first = below.gather(1, (counts > 0).int().argmax(1, keepdim=True))  # pixels of the lowest level
    rest = flat.shape[1] - first
    table = torch.where(rest > 0, ((below - first) * 255 / rest.clamp_min(1)).round(), torch.arange(256.0).to(below))
    return table.gather(1, flat).view_as(level)


def coloured(colour: tuple[float, float, float], pixels: Tensor) -> Tensor:
    """Return a colour for images with three channels, else its luminance, shape ``(1, C or 1, 1, 1)``."""
    colours = pixels.new_tensor(colour).view(1, 3, 1, 1)
    return colours if pixels.shape[1] == 3 else grey(colours)
