"""Pyramid Vision Transformer (PVT), first version: a transformer with the four feature maps of a ResNet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.init import trunc_normal_, zeros_

from mixwell.models.depth import StochasticDepth, drop_rates

SIZE = 224  # height and width of the images that the position embeddings are made for (pixels)
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Attention of every token to a map that is smaller by ``reduction`` in height and width (section 3.3)."""

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.reduction = nn.Conv2d(width, width, reduction, reduction) if reduction > 1 else None
        self.norm = LayerNorm(width) if reduction > 1 else nn.Identity()
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.attn_drop = nn.Identity()  # AttentionHook reads its input, and sets fused_attn to False for it
        self.fused_attn = True
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        reduced = x
        if self.reduction is not None:
            reduced = self.reduction(x.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
        q = self.q(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(self.norm(reduced)).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.fused_attn:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = self.attn_drop((q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)) @ v
        return self.proj(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and an MLP, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, ratio: int, reduction: int, rate: float) -> None:
        super().__init__()
        self.norm1, self.attn = LayerNorm(width), Attention(width, heads, reduction)
        self.norm2 = LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, ratio * width), nn.GELU(), nn.Linear(ratio * width, width))
        self.drop_path = StochasticDepth(rate)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """Embedded patches of a map, and blocks; returns a map or, in the last stage, tokens behind a class token."""

    def __init__(self, inputs: int, width: int, patch: int, grid: int, blocks: Sequence[Block], *, last: bool) -> None:
        super().__init__()
        self.grid, self.extra = (grid, grid), int(last)
        self.patch_embed, self.norm = nn.Conv2d(inputs, width, patch, patch), LayerNorm(width)
        self.cls_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, width), std=0.02)) if last else None
        self.pos_embed = nn.Parameter(trunc_normal_(torch.empty(1, self.extra + grid * grid, width), std=0.02))
        self.blocks = nn.ModuleList(blocks)

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters that have no weight decay, as models of timm do."""
        return {"cls_token", "pos_embed"}

    def positions(self, size: tuple[int, int]) -> Tensor:
        """Return the position embeddings of a grid, resized if it is not that of a 224-pixel image."""
        if size == self.grid:
            return self.pos_embed
        maps = self.pos_embed[:, self.extra :].transpose(1, 2).unflatten(2, self.grid)
        resized = F.interpolate(maps, size, mode="bilinear").flatten(2).transpose(1, 2)
        return torch.cat((self.pos_embed[:, : self.extra], resized), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        size = (x.shape[2], x.shape[3])
        x = self.norm(x.flatten(2).transpose(1, 2))
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), 1)
        x = x + self.positions(size)
        for block in self.blocks:
            x = block(x, size)
        return x.transpose(1, 2).unflatten(2, size) if self.cls_token is None else x


class PVT(nn.Module):
    """A Pyramid Vision Transformer with stages ``stages.0`` to ``stages.3``, whose maps are 1/4 to 1/32 of the image.

    Args:
        num_classes: Width of the output.
        in_chans: Channels of the images.
        depths: Blocks per stage.
        drop_path_rate: Probability that the last block is left out for an image (stochastic depth).

    Source: Wang et al., *Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions*,
    ICCV 2021 (arXiv:2102.12122).

    Example:
        >>> PVT(100)(torch.zeros(1, 3, 224, 224)).shape
        torch.Size([1, 100])
    """

    def __init__(
        self, num_classes: int, in_chans: int = 3, depths: Sequence[int] = (2, 2, 2, 2), drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        widths, heads, ratios, reductions = (64, 128, 320, 512), (1, 2, 5, 8), (8, 8, 4, 4), (8, 4, 2, 1)
        self.stages = nn.Sequential()
        inputs, grid = in_chans, SIZE
        for index, rates in enumerate(drop_rates(depths, drop_path_rate)):
            width, patch = widths[index], 2 if index else 4
            grid //= patch
            blocks = [Block(width, heads[index], ratios[index], reductions[index], rate) for rate in rates]
            self.stages.append(Stage(inputs, width, patch, grid, blocks, last=index == len(widths) - 1))
            inputs = width
        self.num_features = inputs
        self.norm, self.head = LayerNorm(inputs), nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                zeros_(module.bias)

    def get_classifier(self) -> nn.Linear:
        """Return the layer that turns the class token into logits."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(x))[:, 0])


def pvt_tiny(num_classes: int, in_chans: int = 3, **settings: Any) -> PVT:
    """PVT-Tiny for images of 224 pixels, 13.2 M parameters; see :class:`PVT` for the settings."""
    return PVT(num_classes, in_chans, **settings)


def pvt_small(num_classes: int, in_chans: int = 3, **settings: Any) -> PVT:
    """PVT-Small for images of 224 pixels, 24.5 M parameters; see :class:`PVT` for the settings."""
    return PVT(num_classes, in_chans, (3, 4, 6, 3), **settings)
