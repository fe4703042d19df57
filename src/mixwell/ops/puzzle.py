"""What PuzzleMix's mask should be like: costs from saliency, from the borders between cells and from a prior."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Cost of every label in every cell, shape (B, labels, rows, columns); weight, not negative, between a cell and the one
# below, (B, rows - 1, columns), and between a cell and the one to its right, (B, rows, columns - 1).
Costs = tuple[Tensor, Tensor, Tensor]
# How unlike the pixels on both sides of every border are if both cells show the anchor, the first the anchor and the
# second the partner, the other way round, or both the partner. The first cell is the upper or the left one.
Contrast = tuple[Tensor, Tensor, Tensor, Tensor]


def contrast(images: Tensor, partner: Tensor, cells: int, neighbourhood: int) -> tuple[Contrast, Contrast]:
    """Compare the pixels along all borders between cells.

    Args:
        images: Shape ``(B, C, H, W)``, floating point; both sides a multiple of ``cells``.
        partner: Partner of every row, shape ``(B,)``.
        cells: Cells per side.
        neighbourhood: Pixels that are averaged in either direction before they are compared; of a cell that this does
            not divide, the largest divisor of its side below.

    Returns:
        Mean absolute differences between a cell and the one below, ``(B, cells - 1, cells)``, and between a cell and
        the one to its right, ``(B, cells, cells - 1)``.
    """
    below = _across(images, partner, cells, neighbourhood)
    right = _across(images.transpose(2, 3), partner, cells, neighbourhood)
    aa, ab, ba, bb = (each.transpose(1, 2) for each in right)
    return below, (aa, ab, ba, bb)


def _across(images: Tensor, partner: Tensor, cells: int, neighbourhood: int) -> Contrast:
    high, wide = (side // cells for side in images.shape[2:])
    thick, broad = (max(e for e in range(1, neighbourhood + 1) if side % e == 0) for side in (high, wide))
    rows = images.unflatten(2, (cells, high))
    last, first = rows[:, :, :-1, high - thick :].mean(3), rows[:, :, 1:, :thick].mean(3)  # (B, C, cells - 1, W)
    last, first = (each.unflatten(3, (cells, wide // broad, broad)).mean(5) for each in (last, first))
    other_last, other_first = last.index_select(0, partner), first.index_select(0, partner)
    aa, ab, ba = (
        (x - y).abs_().mean((1, 4)) for x, y in ((last, first), (last, other_first), (other_last, first))
    )  # (B, cells - 1, cells)
    return aa, ab, ba, aa.index_select(0, partner)


def prior(lam: Tensor, labels: int) -> Tensor:
    """Return how unlikely every label is among ``labels - 1`` draws with probability ``lam``, shape ``(labels, S)``."""
    k = labels - 1
    chance = torch.stack([math.comb(k, j) * lam**j * (1 - lam) ** (k - j) for j in range(labels)])
    return -torch.log(chance + 1e-8)


def puzzle_costs(
    saliency: tuple[Tensor, Tensor],
    borders: tuple[Contrast, Contrast],
    lam: Tensor,
    labels: int = 3,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
) -> Costs:
    """Put PuzzleMix's energy together.

    Label k of K means that the cell shows ``k / K`` of the anchor.

    Args:
        saliency: Of anchors and partners, cell by cell and summing to one, shape ``(B, cells, cells)`` each.
        borders: The result of :func:`contrast`.
        lam: Drawn ratio, shape ``(S,)``.
        labels: Number of labels.
        beta: How much a border between different labels costs.
        gamma: How much a border costs that shows.
        eta: How much a label costs that is unlikely at this ratio.

    Returns:
        Costs; the energy is the sum of ``unary`` and of ``weight * (difference of the shares) ** 2`` over all borders.
    """
    cells = saliency[0].shape[1]
    smooth = beta / (16 * cells)
    anchor, partner = saliency[1].clone(), saliency[0].clone()  # showing one image loses what matters in the other
    weights = []
    for dim, border in enumerate(borders, 1):
        aa, ab, ba, bb = (smooth * gamma / 2 * each for each in border)
        shown = ((anchor, 0, aa + ab), (partner, 0, ba + bb), (anchor, 1, aa + ba), (partner, 1, ab + bb))
        for cost, start, half in shown:
            cost.narrow(dim, start, cells - 1).add_(half)
        weights.append((ab + ba - aa - bb + smooth).clamp_min(0))
    rare = eta / cells**2 * prior(lam, labels)[..., None, None]  # (labels, S, 1, 1)
    shares = [k / (labels - 1) for k in range(labels)]
    unary = [share * anchor + (1 - share) * partner + rare[k] for k, share in enumerate(shares)]
    return torch.stack(unary, 1), weights[0], weights[1]


def whole_costs(costs: Costs) -> Costs:
    """Return the costs in whole numbers, as the published code rounds them."""
    unary, vertical, horizontal = (each.double().mul(1000 * costs[0].shape[2] ** 2).trunc() for each in costs)
    return unary, vertical, horizontal
