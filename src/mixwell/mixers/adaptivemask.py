"""The mix block of AdAutoMix: masks for any number of sources."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.mixers.mixblock import Block, BlockSettings, Upsampling, initialise, projection


class SourceAttention(BlockSettings):
    """Settings of an :class:`AdaptiveMask`; ``lam_concat=True, norm="batch"`` are AdAutoMix's on ImageNet.

    Args:
        reduction: See :class:`BlockSettings`.
        norm: See :class:`BlockSettings`.
        upsampling: See :class:`BlockSettings`.
        lam_concat: Give every source its ratio in a channel of its own.

    Raises:
        ValueError: A setting is unknown or out of range.

    Note: the value of a source is its own, as published, although the keys are those of the other sources.

    Source: Qin et al., *Adversarial AutoMixup*, ICLR 2024 (arXiv:2312.11954).

    Example:
        >>> SourceAttention().build(16)(torch.rand(2, 3, 16, 4, 4), torch.full((2, 3), 1 / 3), (8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    upsampling: Upsampling = "bilinear"
    lam_concat: bool = False

    def build(self, channels: int) -> AdaptiveMask:
        """See :meth:`BlockSettings.build`."""
        return AdaptiveMask(channels, self)


class AdaptiveMask(Block):
    """Shares every pixel between K sources, by attention of each source to all others.

    One block serves any K from 2. Computed in the dtype of its weights, under autocast too.

    Args:
        channels: Channels C of the feature maps.
        settings: Settings of the block.

    Raises:
        ValueError: There are fewer channels than the reduction; when called: the maps do not fit.

    Source: See :class:`SourceAttention`.

    Example:
        >>> shares = AdaptiveMask(16)(torch.rand(2, 5, 16, 4, 4), torch.full((1, 5), 0.2), (8, 8))
        >>> bool((shares.sum(1) - 1).abs().max() < 1e-6)
        True
    """

    settings: SourceAttention

    def __init__(self, channels: int, settings: SourceAttention = SourceAttention()) -> None:
        super().__init__(channels, settings)
        width, read = settings.width(channels), channels + settings.lam_concat
        self.query = projection(read, width, settings.norm, activation=True)
        self.key = projection(read, width, settings.norm, activation=True)
        self.value = nn.Conv2d(read, 1, 1)
        initialise(self)

    def forward(self, sources: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Predict shares.

        Args:
            sources: Features of every source, shape ``(B, K, C, h, w)``, K at least 2.
            lam: Mixing ratio of each source, shape ``(B, K)`` or ``(1, K)``.
            size: Height and width of the images.

        Returns:
            Shares ``(B, K, H, W)``, float32, summing to one over K.
        """
        rows, count = sources.shape[:2]
        maps = self.checked(sources.flatten(0, 1))
        with torch.autocast(maps.device.type, enabled=False):
            if self.settings.lam_concat:
                ratios = lam.to(maps.dtype).expand(rows, count).reshape(-1, 1, 1, 1)
                maps = torch.cat((maps, ratios.expand(-1, 1, *maps.shape[2:])), 1)
            tokens = (rows, count, -1, maps.shape[2] * maps.shape[3])  # then (B, K, h * w, width)
            query, key, value = (
                self.query(maps).reshape(tokens),
                self.key(maps).reshape(tokens),
                self.value(maps).reshape(tokens),
            )
            # q_i . sum of k_j over all j but i, for every source in one call.
            others = key.sum(1, keepdim=True) - key
            logits = F.scaled_dot_product_attention(query.mT, others.mT, value.mT)[..., 0]
            return self.settings.upsample(logits.unflatten(2, maps.shape[2:]), size).softmax(1)

    def shares(self, features: Tensor, partners: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`Block.shares`."""
        rows = torch.arange(len(features), device=features.device)
        return self(features[torch.cat((rows[:, None], partners), 1)], lam, size)
