"""Corruptions of one image in NumPy, SciPy, OpenCV and Pillow, as published, from given random numbers."""

from __future__ import annotations

import colorsys
import io
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import scipy.ndimage as nd
import scipy.stats
from PIL import Image

Array = np.ndarray[Any, Any]
Uniform = Callable[..., Array]  # draws numbers of a shape, in the order of the fast version


def normal(u: Array) -> Array:
    return scipy.stats.norm.ppf(u)


def gaussian_noise(x: Array, u: Uniform, c: float) -> Array:
    return x + c * normal(u(*x.shape))


def speckle_noise(x: Array, u: Uniform, c: float) -> Array:
    return x * (1 + c * normal(u(*x.shape)))


def impulse_noise(x: Array, u: Uniform, c: float) -> Array:
    draw = u(*x.shape)
    return np.where(draw < c / 2, 0, np.where(draw > 1 - c / 2, 1, x))


def shot_noise(x: Array, u: Uniform, c: float) -> Array:
    return scipy.stats.poisson.ppf(u(*x.shape), np.round(x * 255) / 255 * c).clip(0) / c


def smooth(x: Array, sigma: float, **how: Any) -> Array:
    return np.stack([nd.gaussian_filter(plane, sigma, **{"mode": "nearest", **how}) for plane in x])


def gaussian_blur(x: Array, u: Uniform, sigma: float) -> Array:
    return smooth(x, sigma)


def defocus_blur(x: Array, u: Uniform, radius: float, soft: float) -> Array:
    reach, size = (8, 3) if radius <= 8 else (int(radius), 5)
    axis = np.arange(-reach, reach + 1)
    kernel = ((axis**2 + axis[:, None] ** 2) <= radius**2).astype(np.float64)
    kernel = cv2.GaussianBlur(kernel / kernel.sum(), (size, size), sigmaX=soft)
    return np.stack([cv2.filter2D(plane, -1, kernel) for plane in x])


def glass_blur(x: Array, u: Uniform, sigma: float, reach: int, rounds: int) -> Array:
    x = np.floor(smooth(x, sigma) * 255 + 1e-3) / 255
    H, W = x.shape[1:]
    for _ in range(rounds):
        offset = np.floor(u(2, H, W) * 2 * reach).astype(int) - reach
        for h in range(H - reach, reach, -1):
            for w in range(W - reach, reach, -1):
                if h < H and w < W:
                    x[:, h, w] = x[:, h + offset[0, h, w], w + offset[1, h, w]]
    return smooth(x, sigma)


def line(x: Array, radius: int, sigma: float, angle: float) -> Array:
    weights = [math.exp(-(k**2) / (2 * sigma**2)) for k in range(2 * radius + 1)]
    result, (H, W) = np.zeros_like(x), x.shape[1:]
    for k, weight in enumerate(weights):
        down = math.ceil(k * math.sin(math.radians(angle)) - 0.5)
        right = math.ceil(k * math.cos(math.radians(angle)) - 0.5)
        rows, columns = np.clip(np.arange(H) + down, 0, H - 1), np.clip(np.arange(W) + right, 0, W - 1)
        result += weight / sum(weights) * x[:, rows][:, :, columns]
    return result


def motion_blur(x: Array, u: Uniform, radius: int, sigma: float) -> Array:
    return line(x, radius, sigma, 90 * u().item() - 45)


def zoomed(x: Array, factor: float) -> Array:
    h = x.shape[1]
    inner = math.ceil(h / factor)
    top = (h - inner) // 2
    large = nd.zoom(x[:, top : top + inner, top : top + inner], (1, factor, factor), order=1)
    trim = (large.shape[1] - h) // 2
    return large[:, trim : trim + h, trim : trim + h]


def zoom_blur(x: Array, u: Uniform, end: float, step: float) -> Array:
    factors = np.arange(1, end, step)
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def plasma(u: Array, side: int, decay: float) -> Array:
    """Diamond-square, one point at a time."""
    cloud, numbers, step, swing = np.zeros((side, side)), iter(u.tolist()), side, 100.0
    while step >= 2:
        half = step // 2
        for first_row, first_column in ((half, half), (0, half), (half, 0)):
            found = {}
            for r in range(first_row, side, step):
                for c in range(first_column, side, step):
                    if (first_row, first_column) == (half, half):
                        around = [
                            (r - half, c - half),
                            (r - half, c + half),
                            (r + half, c - half),
                            (r + half, c + half),
                        ]
                    else:
                        around = [(r - half, c), (r + half, c), (r, c - half), (r, c + half)]
                    total = sum(cloud[i % side, j % side] for i, j in around)
                    found[r, c] = total / 4 + swing**2 * (2 * next(numbers) - 1)
            for place, value in found.items():
                cloud[place] = value
        step, swing = half, swing / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def fog(x: Array, u: Uniform, amount: float, decay: float) -> Array:
    side = 2 ** math.ceil(math.log2(x.shape[1]))
    cloud = plasma(u(side * side), side, decay)[: x.shape[1], : x.shape[2]]
    return (x + amount * cloud) * x.max() / (x.max() + amount)


def frost(x: Array, u: Uniform, image: float, ice: float) -> Array:
    side = 2 ** math.ceil(math.log2(x.shape[1]))
    clouds = [plasma(u(side * side), side, 1.6)[: x.shape[1], : x.shape[2]] for _ in range(2)]
    ridges = np.maximum(*(1 - np.abs(2 * cloud - 1) for cloud in clouds)) ** 2
    return image * x + ice * ridges * np.array([0.85, 0.93, 1.0])[:, None, None]


def snow(
    x: Array, u: Uniform, mean: float, spread: float, zoom: float, least: float, radius: int, sigma: float, image: float
) -> Array:
    flakes = zoomed(mean + spread * normal(u(1, *x.shape[1:])), zoom)
    flakes[flakes < least] = 0
    flakes = np.floor(flakes.clip(0, 1) * 255) / 255
    flakes = np.round(line(flakes, radius, sigma, -135 + 90 * u().item()) * 255) / 255
    grey = cv2.cvtColor(x.transpose(1, 2, 0).astype(np.float32), cv2.COLOR_RGB2GRAY)
    bright = np.maximum(x, grey * 1.5 + 0.5)
    return image * x + (1 - image) * bright + flakes + np.rot90(flakes, 2, (1, 2))


def by_hsv(x: Array, change: Callable[[float, float, float], tuple[float, float, float]]) -> Array:
    result = np.empty_like(x)
    for r, c in np.ndindex(x.shape[1:]):
        result[:, r, c] = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*x[:, r, c].tolist())))
    return result


def brightness(x: Array, u: Uniform, more: float) -> Array:
    return by_hsv(x, lambda h, s, v: (h, s, min(v + more, 1)))


def saturate(x: Array, u: Uniform, factor: float, more: float) -> Array:
    return by_hsv(x, lambda h, s, v: (h, min(max(s * factor + more, 0), 1), v))


def contrast(x: Array, u: Uniform, factor: float) -> Array:
    mean = x.mean((1, 2), keepdims=True)
    return mean + factor * (x - mean)


def spatter(
    x: Array, u: Uniform, mean: float, spread: float, sigma: float, least: float, amount: float, mud: int
) -> Array:
    liquid = smooth(mean + spread * normal(u(1, *x.shape[1:])), sigma)[0]
    liquid[liquid < least] = 0
    if mud:
        cover = smooth((liquid > least).astype(float)[None], amount)[0]
        cover[cover < 0.8] = 0
        return x * (1 - cover) + np.array([63, 42, 20])[:, None, None] / 255 * cover
    drops = liquid > 0
    rim = drops & ~nd.binary_erosion(drops, np.ones((3, 3)), border_value=1)
    distance = nd.distance_transform_edt(~rim) if rim.any() else np.full(rim.shape, 20.0)
    level = cv2.blur(distance.clip(0, 20), (3, 3))
    level = cv2.equalizeHist(np.floor(level + 1e-3).astype(np.uint8)).astype(np.float64)
    level = cv2.filter2D(level, -1, np.array([[-2.0, -1, 0], [-1, 1, 1], [0, 1, 2]])).clip(0, 255)
    light = np.floor(liquid * 255) * np.round(cv2.blur(level, (3, 3)))
    light = light / max(light.max(), 1e-6) * amount
    return x + light * np.array([175, 238, 238])[:, None, None] / 255


def picture(x: Array) -> Image.Image:
    return Image.fromarray(np.round(x * 255).astype(np.uint8).transpose(1, 2, 0))


def pixels(image: Image.Image) -> Array:
    return np.asarray(image).transpose(2, 0, 1) / 255


def pixelate(x: Array, u: Uniform, share: float) -> Array:
    H, W = x.shape[1:]
    small = picture(x).resize((int(W * share), int(H * share)), Image.Resampling.BOX)
    return pixels(small.resize((W, H), Image.Resampling.BOX))


def jpeg_compression(x: Array, u: Uniform, quality: int) -> Array:
    file = io.BytesIO()
    picture(x).save(file, "JPEG", quality=quality)
    return pixels(Image.open(file))


def elastic_transform(x: Array, u: Uniform, amount: float, sigma: float, shift: float) -> Array:
    H, W = x.shape[1:]
    side, third = min(H, W), min(H, W) // 3
    points = np.float32([[W // 2 + a * third, H // 2 + b * third] for a, b in ((1, 1), (1, -1), (-1, -1))])
    moved = points + ((2 * u(3, 2) - 1) * shift * side).astype(np.float32)
    back = cv2.invertAffineTransform(cv2.getAffineTransform(points, moved))
    y, x_place = np.mgrid[:H, :W]
    places = np.einsum("ij,jhw->ihw", back, np.stack([x_place, y, np.ones_like(y)]))
    warped = np.stack([nd.map_coordinates(plane, places[::-1], order=1, mode="mirror") for plane in x])
    noise = 2 * u(2, H, W) - 1
    field = amount * side * smooth(noise, sigma * side, mode="reflect", truncate=3.0) if amount else 0 * noise
    places = np.stack([y + field[1], x_place + field[0]])
    return np.stack([nd.map_coordinates(plane, places, order=1, mode="reflect") for plane in warped])
