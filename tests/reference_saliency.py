"""The policies that look at saliency again, slowly; maps come as they were given, of any size."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

import mixwell as mw
from slow_plans import Drawn, Mixed, around, masked, pasted, pushed, resized


def saliencymix(policy: mw.SaliencyMix, d: Drawn) -> Mixed:
    """Uddin et al. 2021."""
    high, wide = d.size
    boxes = []
    for row, lam in enumerate(d.lam):
        saliency = np.array(d.maps[d.sources[0 if policy.scope == "batch" else row][1]])
        if policy.draw_centre:
            chance = saliency if policy.temperature is None else np.exp(saliency / saliency.max() / policy.temperature)
            running = np.cumsum(chance.ravel()) / chance.sum()
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


def attentivemix(policy: mw.AttentiveMix, d: Drawn) -> Mixed:
    """Walawalkar et al. 2020, and AttentiveMix+ where the number of cells is drawn."""
    cells, number = policy.cells, policy.cells**2
    masks = []
    for row, lam in enumerate(d.lam):
        maps = d.maps[d.sources[row][1 if policy.paste else 0]]
        finer = min(len(maps), len(maps[0])) >= cells
        grid = resized(maps, (cells, cells), "area" if finer else "bilinear")
        drawn = math.floor((1 - lam if policy.paste else lam) * number)
        count = min(max(drawn, 1), number) if policy.top is None else min(policy.top, number)
        best = sorted(range(number), key=lambda cell, grid=grid: -grid[cell // cells][cell % cells])[:count]
        masks.append([[float((y * cells + x in best) != policy.paste) for x in range(cells)] for y in range(cells)])
    return masked(d.images, d.sources, [float(np.mean(mask)) for mask in masks], masks)


def saliencygrafting(policy: mw.SaliencyGrafting, d: Drawn) -> Mixed:
    """Park et al. 2022, cell by cell."""
    cells, number = policy.cells, policy.cells**2
    masks, weights, ratios = [], [], []
    for row, lam in enumerate(d.lam):
        own, other = (peaks_of(d.maps[source], cells) for source in d.sources[row])
        powers = [math.exp((value / max(other) - 1) / policy.temperature) for value in other]
        pasted = [
            power / sum(powers) > 1 / number and d.numbers[0][row][cell // cells][cell % cells] >= lam
            for cell, power in enumerate(powers)
        ]
        shown = math.hypot(*(0.0 if p else v for p, v in zip(pasted, own, strict=True))) / math.hypot(*own)
        grafted = math.hypot(*(v if p else 0.0 for p, v in zip(pasted, other, strict=True))) / math.hypot(*other)
        weights.append([shown / (shown + grafted), grafted / (shown + grafted)])
        ratios.append(1 - sum(pasted) / number)
        masks.append([[float(not pasted[y * cells + x]) for x in range(cells)] for y in range(cells)])
    return masked(d.images, d.sources, ratios, masks)._replace(weights=torch.tensor(weights))


def peaks_of(maps: list[list[float]], cells: int) -> list[float]:
    """Return the largest value of every cell, or interpolate where a side has fewer values than cells."""
    sides = len(maps), len(maps[0])
    if min(sides) < cells:
        return [value for line in resized(maps, (cells, cells), "bilinear") for value in line]
    rows, columns = ([(i * n // cells, -(-(i + 1) * n // cells)) for i in range(cells)] for n in sides)
    return [max(max(line[left:right]) for line in maps[top:bottom]) for top, bottom in rows for left, right in columns]


def smmix(policy: mw.SMMix, d: Drawn) -> Mixed:
    """Chen et al. 2023, with every window's sum added up."""
    (high, wide), cells = d.size, policy.cells
    boxes, windows, ratios = [], [], []
    for row, lam in enumerate(d.lam):
        side = math.floor(lam * cells + 1e-6)

        def sums(maps: list, side: int = side) -> dict[tuple[int, int], float]:
            finer = min(len(maps), len(maps[0])) >= cells
            grid = np.array(resized(maps, (cells, cells), "area" if finer else "bilinear"))
            corners = [(y, x) for y in range(cells - side + 1) for x in range(cells - side + 1)]
            return {(y, x): round(grid[y : y + side, x : x + side].sum(), 6) for y, x in corners}

        own, other = (sums(d.maps[source]) for source in d.sources[row])
        target, source = min(own, key=lambda c: own[c]), max(other, key=lambda c: other[c])
        height, width = side * high // cells, side * wide // cells
        for found, (y, x) in ((boxes, target), (windows, source)):
            top, left = y * high // cells, x * wide // cells
            found.append([(top, top + height, left, left + width)])
        ratios.append(1 - side**2 / cells**2)
    return pasted(d.images, d.sources, ratios, boxes, windows)


def mergemix(policy: mw.MergeMix, d: Drawn) -> Mixed:
    """Jin et al. 2025, without merging: the patches of the anchor with the highest attention stay."""
    masks = []
    for row, lam in enumerate(d.lam):
        grid = np.array(d.maps[d.sources[row][0]])
        count = min(max(math.floor(np.float32(lam) * np.float32(grid.size)), 1), grid.size)
        best = set(np.argsort(-grid.ravel(), kind="stable")[:count].tolist())
        rows, columns = grid.shape
        masks.append([[float(y * columns + x in best) for x in range(columns)] for y in range(rows)])
    return masked(d.images, d.sources, d.lam, masks)


def blurred(picture: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """Blur by a Gaussian, mirrored at the border; a side too short for that is continued by its edge."""
    reach = size // 2
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
    wide = np.pad(picture, reach, mode="reflect" if min(picture.shape) > reach else "edge")
    places = np.ndindex(*picture.shape)
    return np.array([(wide[y : y + size, x : x + size] * kernel).sum() for y, x in places]).reshape(picture.shape)


def guidedmix(policy: mw.GuidedMix, d: Drawn) -> Mixed:
    """Kang and Kim 2023; maps are no larger than the images here."""
    maps = []
    for each in d.maps:
        guide = np.array(resized(each, d.size, "bilinear"))
        guide = blurred(guide, policy.blur, policy.sigma) if policy.blur else guide
        maps.append(guide / guide.sum())
    masks = [maps[a] / (maps[a] + maps[b]) for a, b in d.sources]
    return masked(d.images, d.sources, [float(mask.mean()) for mask in masks], [mask.tolist() for mask in masks])


def snapmix(policy: mw.SnapMix, d: Drawn) -> Mixed:
    """Huang et al. 2021; the second ratio is constant here, the labels are the row numbers by three."""
    (high, wide), second = d.size, policy.alpha.value  # type: ignore[union-attr]
    boxes, whence, weights = [], [], []
    content = []
    for each in d.maps:
        map_ = np.array(resized(each, d.size, "bilinear"))
        content.append((map_ - map_.min()) / (map_ - map_.min()).sum())
    for row, lam in enumerate(d.lam):
        pair = []
        for ratio, draw in ((lam, d.numbers[0]), (second, d.numbers[1])):
            u, v = draw[row]
            cut = math.sqrt(1 - ratio)
            pair.append(around(int(u * high), int(v * wide), int(high * cut), int(wide * cut), d.size))
        mixed = all(bottom > top and right > left for top, bottom, left, right in pair)
        a, b = d.sources[row]
        here, there = (np.s_[top:bottom, left:right] for top, bottom, left, right in pair)
        weight = [1 - content[a][here].sum(), content[b][there].sum()] if mixed else [1.0, 0.0]
        if mixed and policy.double_shared and a % 3 == b % 3:
            weight = [sum(weight)] * 2
        weights.append(weight)
        boxes.append([pair[0] if mixed else (0, 0, 0, 0)])
        whence.append([pair[1]])
    mixed_ = pasted(d.images, d.sources, d.lam, boxes, whence, "aligned")
    return mixed_._replace(weights=torch.tensor(weights, dtype=torch.float32))


BY_SALIENCY: dict[type[mw.Policy], Callable[..., Mixed]] = {
    mw.SaliencyMix: saliencymix,
    mw.AttentiveMix: attentivemix,
    mw.MergeMix: mergemix,
    mw.SMMix: smmix,
    mw.GuidedMix: guidedmix,
    mw.SnapMix: snapmix,
    mw.SaliencyGrafting: saliencygrafting,
}
