"""Applying a plan to features instead of images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.features.maps import channels_come_last, grid_of
from mixwell.plan import BlendPlan, ChoicePlan, MaskPlan, PatchPlan, Plan


def mix_features(plan: Plan, features: Tensor) -> Tensor:
    """Mix the features of a layer by a plan that was drawn for the images.

    A position of a feature map takes the mean share of the pixels that it covers, so that label weights stay right; a
    plan that moves pixels is applied at the map's size, where its edges are rounded to whole positions. Where a map is
    too coarse to move the cells of :class:`PuzzleMix`, they stay, and only the shares count. Tokens outside the grid (a
    class token) are blended by the label weights.

    Args:
        plan: Any plan; its size is that of the images.
        features: Maps ``(B, C, h, w)`` or ``(B, h, w, C)``, distinguished by the proportions of the images, or tokens
            ``(B, N, C)``, those outside the grid first.

    Returns:
        Mixed features of the same shape.

    Raises:
        ValueError: The features have another shape, or a plan that mixes regions meets features without positions.

    Example:
        >>> from mixwell import CutMix
        >>> plan = CutMix().draw(torch.rand(4, 3, 32, 32), torch.arange(4))
        >>> mix_features(plan, torch.rand(4, 16, 8, 8)).shape, mix_features(plan, torch.rand(4, 65, 16)).shape
        (torch.Size([4, 16, 8, 8]), torch.Size([4, 65, 16]))
    """
    if isinstance(plan, BlendPlan) and features.dim() > 1:
        wide = features.reshape(*features.shape[:2], -1, 1) if features.dim() != 4 else features
        return plan.apply(wide).reshape(features.shape)
    if features.dim() == 4:
        if channels_come_last(features, plan.size):
            return _apply(plan, features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return _apply(plan, features)
    if features.dim() != 3:
        raise ValueError(
            f"{type(plan).__name__} mixes regions, but features of shape {tuple(features.shape)} have no positions: "
            "choose a layer that outputs maps or tokens, or a policy that blends, such as MixUp."
        )
    rows, columns = grid_of(features.shape[1], plan.size)
    extra, placed = features.split((features.shape[1] - rows * columns, rows * columns), 1)
    maps = placed.transpose(1, 2).unflatten(2, (rows, columns))
    mixed = _apply(plan, maps).flatten(2).transpose(1, 2)
    if not extra.shape[1]:
        return mixed
    blended = (plan.weights.to(extra.dtype)[..., None, None] * extra[plan.sources]).sum(1)
    return torch.cat((blended, mixed), 1)


def _apply(plan: Plan, maps: Tensor) -> Tensor:
    size = (maps.shape[2], maps.shape[3])
    if size == plan.size or (plan.moves_pixels and _moves(plan, size)) or len(plan.partners) != 1:
        return plan.apply(maps)
    share = F.adaptive_avg_pool2d(plan.share(plan.size)[:, :1], size)
    return MaskPlan(Pairs(plan.partners[0], plan.lam, size), share).apply(maps)


def _moves(plan: Plan, size: tuple[int, int]) -> bool:
    """Return whether the cells that a plan moves, if any, divide a map of this size."""
    if isinstance(plan, ChoicePlan):
        return all(_moves(one, size) for one in plan.plans)
    cells = round(plan.moves.shape[2] ** 0.5) if isinstance(plan, PatchPlan) else 1
    return size[0] % cells == 0 and size[1] % cells == 0
