"""Every plan and policy again, slowly: one pixel after the other in plain Python, written from the publications."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import mixwell as mw

Box = tuple[int, int, int, int]  # top, bottom, left, right; half open
Value = Callable[[int, int, int, int, int], float]  # (row, source, channel, y, x) -> value of the source as it stands there


class Mixed(NamedTuple):
    """What should come out: float64 images, not rounded, shares (B, K, H, W), weights (B, K), and the nominal ratio (B,)."""

    images: Tensor
    share: Tensor
    weights: Tensor
    lam: Tensor


class Drawn(NamedTuple):
    """What a policy was given and what it drew, a row each: images, rows of the sources, ratios, numbers, maps."""

    images: Tensor
    sources: list[list[int]]
    lam: list[float]
    numbers: list[list]
    maps: list[list[list[float]]]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.images.shape[2], self.images.shape[3]


def by_pixel(
    images: Tensor,
    sources: list[list[int]],
    lam: Sequence[float],
    share: Callable[[int, int, int], list[float]],
    value: Value | None = None,
    winner: bool = False,
) -> Mixed:
    """Add up the sources of every pixel, each with its share; or let the largest share, the first of several, have all."""
    clean = images.double().tolist()
    b, channels, height, width = images.shape
    mixed = torch.zeros(images.shape, dtype=torch.float64)
    shares = torch.zeros(b, len(sources[0]), height, width)

    def in_place(row: int, k: int, c: int, y: int, x: int) -> float:
        return clean[sources[row][k]][c][y][x]

    for row in range(b):
        for y in range(height):
            for x in range(width):
                parts = share(row, y, x)
                if winner:
                    parts = [float(k == parts.index(max(parts))) for k in range(len(parts))]
                shares[row, :, y, x] = torch.tensor(parts)
                for c in range(channels):
                    here = ((k, part) for k, part in enumerate(parts) if part)
                    mixed[row, c, y, x] = sum(part * (value or in_place)(row, k, c, y, x) for k, part in here)
    return Mixed(mixed, shares, shares.double().mean((2, 3)).float(), torch.tensor(lam))


def blended(images: Tensor, sources: list[list[int]], lam: list[float], winner: bool = False) -> Mixed:
    """Blend whole images."""
    return by_pixel(images, sources, lam, lambda row, y, x: [lam[row], 1 - lam[row]], winner=winner)


def masked(
    images: Tensor,
    sources: list[list[int]],
    lam: list[float],
    mask: list,
    value: Value | None = None,
    winner: bool = False,
) -> Mixed:
    """Give every pixel the share of the nearest value of a mask (B, h, w)."""
    height, width = images.shape[2:]

    def share(row: int, y: int, x: int) -> list[float]:
        own = float(mask[row][y * len(mask[row]) // height][x * len(mask[row][0]) // width])
        return [own, 1 - own]

    return by_pixel(images, sources, lam, share, value, winner)


def moved(
    images: Tensor, sources: list[list[int]], lam: list[float], mask: list, moves: list, winner: bool = False
) -> Mixed:
    """Mask images whose cells have been exchanged; moves (B, 2, cells ** 2)."""
    clean = images.double().tolist()
    cells = math.isqrt(len(moves[0][0]))
    high, wide = images.shape[2] // cells, images.shape[3] // cells

    def value(row: int, k: int, c: int, y: int, x: int) -> float:
        cell = moves[row][k][(y // high) * cells + x // wide]
        return clean[sources[row][k]][c][(cell // cells) * high + y % high][(cell % cells) * wide + x % wide]

    return masked(images, sources, lam, mask, value, winner)


def pasted(
    images: Tensor,
    sources: list[list[int]],
    lam: list[float],
    boxes: list[list[Box]],
    source_boxes: list[list[Box]] | None = None,
    interpolation: str = "nearest",
) -> Mixed:
    """Paste boxes (B, K - 1, 4) of the other sources, later ones over earlier ones."""
    clean = images.double().tolist()

    def share(row: int, y: int, x: int) -> list[float]:
        parts = [1.0] + [0.0] * len(boxes[row])
        for k, (top, bottom, left, right) in enumerate(boxes[row], 1):
            if top <= y < bottom and left <= x < right:
                parts = [float(source == k) for source in range(len(parts))]
        return parts

    def value(row: int, k: int, c: int, y: int, x: int) -> float:
        picture = clean[sources[row][k]][c]
        if k == 0 or source_boxes is None:
            return picture[y][x]
        (top, bottom, left, right), (t, b, l, r) = boxes[row][k - 1], source_boxes[row][k - 1]
        rows = WEIGHTS[interpolation](y - top, bottom - top, b - t)
        columns = WEIGHTS[interpolation](x - left, right - left, r - l)
        return sum(u * v * picture[t + i][l + j] for i, u in rows.items() for j, v in columns.items())

    return by_pixel(images, sources, lam, share, value)


def _nearest(place: int, length: int, source: int) -> dict[int, float]:
    return {min(int(np.float32(place) * (np.float32(source) / np.float32(length))), source - 1): 1.0}


def _bilinear(place: int, length: int, source: int) -> dict[int, float]:
    centre = max((place + 0.5) * source / length - 0.5, 0.0)
    low = min(int(centre), source - 1)
    high = min(low + 1, source - 1)
    return {low: 1.0} if high == low else {low: 1 - (centre - low), high: centre - low}


def _area(place: int, length: int, source: int) -> dict[int, float]:
    covered = range(place * source // length, -(-(place + 1) * source // length))
    return {i: 1 / len(covered) for i in covered}


WEIGHTS = {"nearest": _nearest, "bilinear": _bilinear, "area": _area}


def around(row: int, column: int, height: int, width: int, size: tuple[int, int], odd: str = "floor") -> Box:
    """Put a box around a centre and clip it."""
    down, right = (height // 2, width // 2) if odd == "floor" else ((height + 1) // 2, (width + 1) // 2)
    ends = row - height // 2, row + down, column - width // 2, column + right
    top, bottom, left, rightmost = (min(max(e, 0), size[k // 2]) for k, e in enumerate(ends))
    return top, bottom, left, rightmost


def pushed(row: int, column: int, height: int, width: int, size: tuple[int, int]) -> Box:
    """Put a box around a centre and push it inside."""
    top = min(max(row - height // 2, 0), size[0] - height)
    left = min(max(column - width // 2, 0), size[1] - width)
    return top, top + height, left, left + width


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


def saliencymix(policy: mw.SaliencyMix, d: Drawn) -> Mixed:
    """Uddin et al. 2021."""
    high, wide = d.size
    boxes = []
    for row, lam in enumerate(d.lam):
        saliency = np.array(d.maps[d.sources[0 if policy.scope == "batch" else row][1]])
        if policy.draw_centre:
            running = np.cumsum(saliency.ravel()) / saliency.sum()
            index = int((running <= d.numbers[0][row][0]).sum())
        else:
            levels = saliency if policy.levels is None else np.floor(saliency * policy.levels)
            index = int(np.argmax(levels))  # the first of several
        y, x = divmod(index, saliency.shape[1])
        y, x = int((y + 0.5) * high / saliency.shape[0]), int((x + 0.5) * wide / saliency.shape[1])
        place = {"clip": around, "inside": pushed}[policy.box]
        cut = math.sqrt(1 - lam)
        boxes.append([place(y, x, int(high * cut), int(wide * cut), d.size)])
    return pasted(d.images, d.sources, d.lam, boxes)


def fmix(policy: mw.FMix, d: Drawn) -> Mixed:
    """Harris et al. 2020; the published spectrum takes two rows of frequencies for real and imaginary part."""
    high, wide = d.size
    frequency = np.sqrt(np.fft.fftfreq(high)[:, None] ** 2 + np.fft.rfftfreq(wide) ** 2)
    amplitude = np.maximum(frequency, 1 / max(d.size)) ** -policy.decay  # (H, W // 2 + 1)
    masks = []
    for row, lam in enumerate(d.lam):
        noise = np.array(d.numbers[0][row])
        spectrum = amplitude * (noise[..., 0] + 1j * noise[..., 1])
        if policy.spectrum == "published":
            spectrum = np.zeros_like(spectrum)
            for k in range(min(high, wide // 2 + 1)):
                for c in range(min(2, wide // 2 + 1)):
                    spectrum[k, c] = amplitude[0, k] * noise[0, k, c] + 1j * amplitude[1 % high, k] * noise[1 % high, k, c]
        field = np.fft.irfft2(spectrum, s=d.size).ravel()
        pixels = high * wide
        number = math.ceil(lam * pixels) if d.numbers[1][row][0] > 0.5 else math.floor(lam * pixels)
        edge = math.floor(min(policy.soft, lam, 1 - lam) * pixels)
        mask = np.zeros(pixels)
        for rank, pixel in enumerate(np.argsort(-field)):
            fall = 1 - (rank - (number - edge)) / max(2 * edge - 1, 1)
            mask[pixel] = 1 if rank < number - edge else fall if rank < number + edge else 0
        masks.append(mask.reshape(d.size).tolist())
    return masked(d.images, d.sources, d.lam, masks)


REFERENCES: dict[type[mw.Policy], Callable[..., Mixed]] = {
    mw.MixUp: mixup,
    mw.CutMix: cutmix,
    mw.ResizeMix: resizemix,
    mw.SaliencyMix: saliencymix,
    mw.FMix: fmix,
}


def of_plan(plan: mw.Plan, images: Tensor, winner: bool = False) -> Mixed:
    """Read a plan that was drawn for these images, and follow it slowly; or as class ids are mixed, with a winner."""
    sources, lam = plan.sources.tolist(), plan.lam.tolist()
    if isinstance(plan, mw.BlendPlan):
        return blended(images, sources, lam, winner)
    if isinstance(plan, mw.PatchPlan):
        return moved(images, sources, lam, plan.mask[:, 0].tolist(), plan.moves.tolist(), winner)
    if isinstance(plan, mw.MaskPlan):
        return masked(images, sources, lam, plan.mask[:, 0].tolist(), None, winner)
    if isinstance(plan, mw.BoxPlan):
        whence = None if plan.source_boxes is None else plan.source_boxes.tolist()
        return pasted(images, sources, lam, plan.boxes.tolist(), whence, "nearest" if winner else plan.interpolation)
    assert isinstance(plan, mw.ChoicePlan)
    return chosen([of_plan(inner, images, winner) for inner in plan.plans], plan.choice.tolist())


def chosen(each: list[Mixed], choice: list[int]) -> Mixed:
    """Take every row from one of several."""
    rows = [[field[row] for field in each[which]] for row, which in enumerate(choice)]
    return Mixed(*(torch.stack(field) for field in zip(*rows, strict=True)))
