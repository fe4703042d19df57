"""Every kind of plan again, slowly: one pixel after the other in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import mixwell as mw

Box = tuple[int, int, int, int]  # top, bottom, left, right; half open
Value = Callable[
    [int, int, int, int, int], float
]  # (row, source, channel, y, x) -> value of the source as it stands there


class Mixed(NamedTuple):
    """What should come out: images (float64, not rounded), shares (B, K, H, W), weights (B, K), nominal ratio (B,)."""

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
    """Add up the sources of every pixel, each with its share; or let the largest share, or the first such, have all."""
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


def shared(images: Tensor, sources: list[list[int]], lam: list[float], shares: list, winner: bool = False) -> Mixed:
    """Give every pixel the shares (B, K, h, w) of the nearest cell."""
    height, width = images.shape[2:]

    def share(row: int, y: int, x: int) -> list[float]:
        return [float(of[y * len(of) // height][x * len(of[0]) // width]) for of in shares[row]]

    return by_pixel(images, sources, lam, share, None, winner)


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
        (top, bottom, left, right), (up, down, first, last) = boxes[row][k - 1], source_boxes[row][k - 1]
        rows = WEIGHTS[interpolation](y - top, bottom - top, down - up)
        columns = WEIGHTS[interpolation](x - left, right - left, last - first)
        return sum(u * v * picture[up + i][first + j] for i, u in rows.items() for j, v in columns.items())

    return by_pixel(images, sources, lam, share, value)


def _nearest(place: int, length: int, source: int) -> dict[int, float]:
    return {min(int(np.float32(place) * (np.float32(source) / np.float32(length))), source - 1): 1.0}


def _bilinear(place: int, length: int, source: int) -> dict[int, float]:
    centre = max((place + 0.5) * source / length - 0.5, 0.0)
    low = min(int(centre), source - 1)
    high = min(low + 1, source - 1)
    return {low: 1.0} if high == low else {low: 1 - (centre - low), high: centre - low}


def _aligned(place: int, length: int, source: int) -> dict[int, float]:
    position = place * (source - 1) / (length - 1) if length > 1 else 0.0
    low = min(int(position), source - 1)
    return {low: 1.0} if position == low else {low: 1 - (position - low), low + 1: position - low}


def _area(place: int, length: int, source: int) -> dict[int, float]:
    covered = range(place * source // length, -(-(place + 1) * source // length))
    return {i: 1 / len(covered) for i in covered}


WEIGHTS = {"nearest": _nearest, "bilinear": _bilinear, "aligned": _aligned, "area": _area}


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
    if isinstance(plan, mw.SharePlan):
        return shared(images, sources, lam, plan.shares.tolist(), winner)
    assert isinstance(plan, mw.ChoicePlan)
    return chosen([of_plan(inner, images, winner) for inner in plan.plans], plan.choice.tolist())


def chosen(each: list[Mixed], choice: list[int]) -> Mixed:
    """Take every row from one of several."""
    rows = [[field[row] for field in each[which]] for row, which in enumerate(choice)]
    return Mixed(*(torch.stack(field) for field in zip(*rows, strict=True)))


def resized(picture: list[list[float]], size: tuple[int, int], interpolation: str) -> list[list[float]]:
    """Scale one map."""
    rows, columns = (
        [WEIGHTS[interpolation](place, length, source) for place in range(length)]
        for length, source in zip(size, (len(picture), len(picture[0])), strict=True)
    )
    return [[sum(u * v * picture[i][j] for i, u in r.items() for j, v in c.items()) for c in columns] for r in rows]


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
