"""Every policy again, slowly, written from its publication: given what was drawn, image, shares and weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

import mixwell as mw
from reference_puzzlemix import puzzlemix
from reference_saliency import BY_SALIENCY
from reference_supermix import supermix
from slow_plans import Box, Drawn, Mixed, around, blended, masked, pasted, pushed


def mixup(policy: mw.MixUp, d: Drawn) -> Mixed:
    """Zhang et al. 2018."""
    return blended(d.images, d.sources, d.lam)


def cutmix(policy: mw.CutMix, d: Drawn) -> Mixed:
    """Yun et al. 2019, and timm for the sides between two shares."""
    boxes, lam = [], list(d.lam)
    high, wide = d.size
    for row, ratio in enumerate(d.lam):
        numbers = [draw[row] for draw in d.numbers]
        (u, v), sides = numbers[-1], numbers[0]
        if policy.minmax is not None:
            low, top = policy.minmax
            h, w = int(high * (low + sides[0] * (top - low))), int(wide * (low + sides[1] * (top - low)))
            lam[row] = 1 - h * w / (high * wide)
        else:
            low, top = map(math.log, policy.aspect)
            cut = math.sqrt(1 - ratio)
            stretch = math.exp((low + sides[0] * (top - low)) / 2)
            h, w = int(min(high * cut * stretch, high)), int(min(wide * cut / stretch, wide))
            if policy.match_area:
                pixels = (1 - ratio) * high * wide
                enough = max(h, int(pixels / wide))
                rows = [min(max(tried, 1), high) for tried in (enough, enough + 1)]
                h, w = min(((r, min(round(pixels / r), wide)) for r in rows), key=lambda s: abs(s[0] * s[1] - pixels))
        if policy.minmax is not None or policy.box == "inside":
            y, x = int(u * (high - h + 1)), int(v * (wide - w + 1))
            boxes.append([(y, y + h, x, x + w)])
        else:
            boxes.append([around(int(u * high), int(v * wide), h, w, d.size, policy.odd)])
    mixed = pasted(d.images, d.sources, lam, boxes)
    return mixed if policy.correct_lam else mixed._replace(weights=torch.tensor([[own, 1 - own] for own in lam]))


def resizemix(policy: mw.ResizeMix, d: Drawn) -> Mixed:
    """Qin et al. 2020; OpenMixup for clipping."""
    high, wide = d.size
    boxes = []
    for tau, (u, v) in zip(d.lam, d.numbers[0], strict=True):
        place = {"inside": pushed, "clip": around}[policy.box]
        boxes.append([place(int(high * u), int(wide * v), int(high * tau), int(wide * tau), d.size)])
    whole: list[list[Box]] = [[(0, high, 0, wide)]] * len(boxes)
    return pasted(d.images, d.sources, [1 - tau**2 for tau in d.lam], boxes, whole, policy.interpolation)


def fmix(policy: mw.FMix, d: Drawn) -> Mixed:
    """Harris et al. 2020; the published spectrum takes two rows of frequencies for real and imaginary part."""
    high, wide = d.size
    frequency = np.sqrt(np.fft.fftfreq(high)[:, None] ** 2 + np.fft.rfftfreq(wide) ** 2)
    amplitude = np.maximum(frequency, 1 / max(d.size)) ** -policy.decay  # (H, W // 2 + 1)
    masks = []
    for row, lam in enumerate(d.lam):
        noise = np.array(d.numbers[0][row])
        if policy.spectrum == "published":
            spectrum = np.zeros_like(amplitude, dtype=complex)
            for k in range(min(high, wide // 2 + 1)):
                for c in range(min(2, wide // 2 + 1)):
                    spectrum[k, c] = (
                        amplitude[0, k] * noise[0, k, c] + 1j * amplitude[1 % high, k] * noise[1 % high, k, c]
                    )
            field = np.fft.irfft2(spectrum, s=d.size).ravel()
        else:  # the paper: the real part of a transform of the whole plane, in which k and -k are alike
            spectrum = np.zeros(d.size, dtype=complex)
            for k in range(wide // 2 + 1):
                alone = k in (0, wide / 2)
                spectrum[:, k] = (
                    amplitude[:, k] * (noise[:, k, 0] + 1j * noise[:, k, 1]) * (1 if alone else math.sqrt(2))
                )
            field = np.fft.ifft2(spectrum).real.ravel()
        pixels = high * wide
        number = math.ceil(lam * pixels) if d.numbers[1][row][0] > 0.5 else math.floor(lam * pixels)
        edge = math.floor(min(policy.soft, lam, 1 - lam) * pixels)
        mask = np.zeros(pixels)
        for rank, pixel in enumerate(np.argsort(-field)):
            fall = 1 - (rank - (number - edge)) / max(2 * edge - 1, 1)
            mask[pixel] = 1 if rank < number - edge else fall if rank < number + edge else 0
        masks.append(mask.reshape(d.size).tolist())
    return masked(d.images, d.sources, d.lam, masks)


def smoothmix(policy: mw.SmoothMix, d: Drawn) -> Mixed:
    """Lee et al. 2020; the width that gives a drawn ratio is found by bisection between e ** -7 and e ** 4."""

    def mask(centre: list[float], width: float) -> np.ndarray:
        total = 0.0
        for k, (at, side) in enumerate(zip(centre, d.size, strict=True)):
            away = np.maximum(np.abs(np.arange(side) - at) - policy.plateau * side / 2, 0) / max(width * side, 1e-6)
            total = total + np.expand_dims(away**2 / 2, 1 - k)
        return 1 - np.exp(-total)

    masks = []
    for row, lam in enumerate(d.lam):
        centre = [int(u * side) - 0.5 for u, side in zip(d.numbers[0][row], d.size, strict=True)]
        width = lam
        if policy.fit:
            low, high = -7.0, 4.0
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if mask(centre, math.exp(middle)).mean() > lam else (low, middle)
            width = math.exp(low)
        masks.append(mask(centre, width))
    lam = d.lam if policy.fit else [float(each.mean()) for each in masks]
    return masked(d.images, d.sources, lam, [each.tolist() for each in masks])


def gridmix(policy: mw.GridMix, d: Drawn) -> Mixed:
    """Baek et al. 2021."""
    cells, masks = policy.cells, []
    for row, lam in enumerate(d.lam):
        order = sorted(range(cells**2), key=lambda cell, noise=d.numbers[0][row]: noise[cell])
        kept = set(order[: round(lam * cells**2)])
        masks.append([[float(y * cells + x in kept) for x in range(cells)] for y in range(cells)])
    return masked(d.images, d.sources, d.lam, masks)


def maskmix(policy: mw.MaskMix, d: Drawn) -> Mixed:
    """Zhao et al. 2023, with weights of the pixels that are left of the grid."""
    high, wide = d.size
    rows, columns = math.ceil(high / policy.patch), math.ceil(wide / policy.patch)
    masks = []
    for row, lam in enumerate(d.lam):
        order = sorted(range(rows * columns), key=lambda cell, noise=d.numbers[0][row]: noise[cell])
        kept = set(order[: math.ceil(np.float32(lam) * np.float32(rows * columns))])
        masks.append(
            [[float(y // policy.patch * columns + x // policy.patch in kept) for x in range(wide)] for y in range(high)]
        )
    return masked(d.images, d.sources, d.lam, masks)


def tokenmix(policy: mw.TokenMix, d: Drawn) -> Mixed:
    """Liu et al. 2022, one rectangle after the other, filled up with random tokens."""
    cells, masks = policy.cells, []
    for row, lam in enumerate(d.lam):
        count = min(math.floor((1 - lam) * cells**2) + policy.extra, cells**2)
        marked: set[int] = set()
        for area, aspect, u, v in d.numbers[1][row] if policy.block else []:
            left = count - len(marked)
            target, ratio = 1 + area * (left - 1), math.exp((2 * aspect - 1) * math.log(1 / 0.3))
            if target < 0:
                continue
            height, width = (round(math.sqrt(target * factor)) for factor in (ratio, 1 / ratio))
            top, side = math.floor(u * (cells - height + 1)), math.floor(v * (cells - width + 1))
            box = {y * cells + x for y in range(top, top + height) for x in range(side, side + width)}
            if height < cells and width < cells and 0 < len(box - marked) <= left:
                marked |= box
        order = sorted(range(cells**2), key=lambda cell, noise=d.numbers[0][row]: (cell not in marked, noise[cell]))
        gone = set(order[:count])
        masks.append([[float(y * cells + x not in gone) for x in range(cells)] for y in range(cells)])
    return masked(d.images, d.sources, d.lam, masks)


def gridmixup(policy: mw.GridMixup, d: Drawn) -> Mixed:
    """Dobrynin 2020, with the part that gets holes kept within the image."""
    high, wide = d.size
    masks = []
    for row, lam in enumerate(d.lam):
        *shares, number, u, v = d.numbers[0][row]
        ranges = (policy.area, policy.aspect, policy.hole_aspect)
        area, aspect, slant = (low + (top - low) * n for n, (low, top) in zip(shares, ranges, strict=True))
        count = policy.count[0] + int(number * (policy.count[1] - policy.count[0] + 1))
        width = int(math.sqrt(int(area * high * wide) / aspect))
        height = int(width * aspect)
        if policy.clamp:
            height, width = min(height, high), min(width, wide)
        across = math.ceil(width / min(count, max(width // 2, 1)))
        down = max(int(across * slant), 1)
        hole = [min(max(int(cell * math.sqrt(1 - lam)), 1), cell - 1) for cell in (down, across)]
        top, left = int((high - height) * u), int((wide - width) * v)
        mask = np.ones(d.size)
        for y in range(max(top, 0), min(top + height, high)):
            for x in range(max(left, 0), min(left + width, wide)):
                mask[y, x] = not ((y - top) % down < hole[0] and (x - left) % across < hole[1])
        masks.append(mask.tolist())
    return masked(d.images, d.sources, d.lam, masks)


REFERENCES: dict[type[mw.Policy], Callable[..., Mixed]] = {
    mw.MixUp: mixup,
    mw.CutMix: cutmix,
    mw.ResizeMix: resizemix,
    mw.FMix: fmix,
    mw.SmoothMix: smoothmix,
    mw.GridMix: gridmix,
    mw.GridMixup: gridmixup,
    mw.MaskMix: maskmix,
    mw.TokenMix: tokenmix,
    mw.PuzzleMix: puzzlemix,
    mw.SuperMix: supermix,
    **BY_SALIENCY,
}
