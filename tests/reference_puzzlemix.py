"""PuzzleMix again, slowly: every energy written out, every labelling tried, every proposal made in a loop."""

from __future__ import annotations

import itertools
import math

import numpy as np

import mixwell as mw
from slow_plans import Drawn, Mixed, masked, moved, resized

Grid = list[list[float]]


def on_cells(maps: Grid, cells: int) -> np.ndarray:
    """Average a map into cells, or interpolate one that has fewer values, and scale it to a sum of one."""
    finer = min(len(maps), len(maps[0])) >= cells
    grid = np.array(resized(maps, (cells, cells), "area" if finer else "bilinear"))
    return grid / grid.sum()


def pooled(image: np.ndarray, cells: int, neighbourhood: int, axis: int) -> tuple[np.ndarray, int]:
    """Average square neighbourhoods of an image (C, H, W); also return how many lie side by side in a cell."""
    side = [extent // cells for extent in image.shape[1:]]
    e = [max(n for n in range(1, neighbourhood + 1) if length % n == 0) for length in side]
    out = np.zeros((image.shape[0], image.shape[1] // e[0], image.shape[2] // e[1]))
    for c, y, x in np.ndindex(*out.shape):
        out[c, y, x] = image[c, y * e[0] : (y + 1) * e[0], x * e[1] : (x + 1) * e[1]].mean()
    return out, side[axis] // e[axis]


def energy_of(policy: mw.PuzzleMix, images: tuple, saliency: tuple, lam: float, cells: int) -> tuple[np.ndarray, dict]:
    """Return unary costs (labels, cells, cells) and the weight of every border, written from the formula."""
    k, smooth = policy.labels - 1, policy.beta / (16 * cells)
    lost = [saliency[1].copy(), saliency[0].copy()]  # by showing the anchor, by showing the partner
    weights = {}
    for axis, (down, right) in enumerate(((1, 0), (0, 1))):
        pictures = [pooled(image, cells, policy.neighbourhood, axis)[0] for image in images]
        along = pooled(images[0], cells, policy.neighbourhood, axis)[1]
        across = pooled(images[0], cells, policy.neighbourhood, 1 - axis)[1]
        for y, x in itertools.product(range(cells - down), range(cells - right)):
            phi = np.zeros((2, 2))
            for s, t in itertools.product(range(2), repeat=2):
                gaps = []
                for i in range(across):
                    border = (y + 1) * along if down else (x + 1) * along
                    here = (border - 1, x * across + i) if down else (y * across + i, border - 1)
                    there = (border, x * across + i) if down else (y * across + i, border)
                    gaps.append(np.abs(pictures[s][:, here[0], here[1]] - pictures[t][:, there[0], there[1]]).mean())
                phi[s, t] = smooth * policy.gamma * np.mean(gaps)
            for s in range(2):
                lost[s][y, x] += phi[s].sum() / 2
                lost[s][y + down, x + right] += phi[:, s].sum() / 2
            bend = (phi[0, 1] + phi[1, 0] - phi[0, 0] - phi[1, 1]) / 2
            weights[(y, x), (y + down, x + right)] = max(smooth + bend, 0.0)
    unary = []
    for j in range(k + 1):
        chance = math.comb(k, j) * lam**j * (1 - lam) ** (k - j)
        unary.append(j / k * lost[0] + (1 - j / k) * lost[1] - policy.eta / cells**2 * math.log(chance + 1e-8))
    return np.array(unary), weights


def every_labelling(unary: np.ndarray, weights: dict) -> np.ndarray:
    """Return the best of all labellings, as shares."""
    labels, cells = len(unary), unary.shape[1]
    tried = np.array(list(itertools.product(range(labels), repeat=cells**2))).reshape(-1, cells, cells)
    total = sum(unary[:, y, x][tried[:, y, x]] for y in range(cells) for x in range(cells))
    for (here, there), weight in weights.items():
        total = total + weight * ((tried[:, *here] - tried[:, *there]) / (labels - 1)) ** 2
    return tried[total.argmin()] / (labels - 1)


def published_transport(saliency: np.ndarray, shown: np.ndarray, eps: float) -> list[int]:
    """Let cells propose as the published code does, with whole matrices; who finds no cell shows its own."""
    cells = len(saliency)
    number = cells**2
    cost = np.zeros((number, number), dtype=np.float32)
    for i, j in itertools.product(range(number), repeat=2):
        apart = ((i // cells - j // cells) ** 2 + (i % cells - j % cells) ** 2) / max(cells - 1, 1) ** 2
        cost[i, j] = np.float32(eps) * np.float32(apart) - np.float32(saliency.flat[i]) * bool(shown.flat[j])
    for _ in range(cells):
        plan = np.zeros_like(cost)
        for i in range(number):
            plan[i, cost[i].argmin()] = 1
        won = np.zeros_like(cost)
        for j in range(number):
            best = (plan[:, j] * cost[:, j]).argmin()
            won[best, j] = plan[best, j]
        cost += plan - won
    return [int(won[:, j].argmax()) if won[:, j].any() else j for j in range(number)]


def in_unit_range(policy: mw.PuzzleMix, d: Drawn, cells: int) -> np.ndarray:
    """Return images as the energy sees them, stretched to a multiple of the cells."""
    high, wide = (-(-side // cells) * cells for side in d.size)
    std = 1 / 255 if not d.images.is_floating_point() else 1.0
    rows, columns = np.arange(high) * d.size[0] // high, np.arange(wide) * d.size[1] // wide
    return d.images.double().numpy()[:, :, rows][:, :, :, columns] * std


def puzzlemix(policy: mw.PuzzleMix, d: Drawn) -> Mixed:
    """Kim et al. 2020, for one number of blocks; all labellings are tried, so at most 3 x 3 cells."""
    cells = policy.blocks
    scaled = in_unit_range(policy, d, cells)
    masks, moves = [], []
    for row, lam in enumerate(d.lam):
        a, b = d.sources[row]
        saliency = on_cells(d.maps[a], cells), on_cells(d.maps[b], cells)
        unary, weights = energy_of(policy, (scaled[a], scaled[b]), saliency, lam, cells)
        mask = np.full((cells, cells), lam) if lam in (0, 1) else every_labelling(unary, weights)
        masks.append(mask.tolist())
        finer = max(cells, policy.transport_cells or 0)
        mask = mask.repeat(finer // cells, 0).repeat(finer // cells, 1)
        sides = ((a, mask > 0), (b, mask < 1))
        moves.append(
            [published_transport(on_cells(d.maps[k], finer), shown, policy.transport_eps) for k, shown in sides]
        )
    if not policy.transport:
        return masked(d.images, d.sources, d.lam, masks)
    return moved(d.images, d.sources, d.lam, masks, moves)
