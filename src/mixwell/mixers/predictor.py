"""A mix block, and the network that it looks through, as they are now."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixwell.features.hooks import undisturbed
from mixwell.features.maps import MapTap
from mixwell.mixers.adaptivemask import AdaptiveMask


class Seer:
    """Shares the pixels of images out between their sources, and leaves no trace.

    Both networks run in eval mode, without a graph, and are afterwards as they were.

    Args:
        block: See :class:`MixBlock` and :class:`AdaptiveMask`.
        encoder: The network.
        tap: Reads the map that the block is made for, see :class:`MapTap`.
        sources: How many sources K the block is trained with, at least 2.

    Example:
        >>> from mixwell import AutoMix
        >>> from mixwell.models import mini_resnet
        >>> seer, images = AutoMix(mini_resnet(10)).seer(), torch.rand(2, 3, 32, 32)
        >>> seer.share(images, torch.tensor([[1], [0]]), torch.tensor([[0.3, 0.7]]), (32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """

    def __init__(self, block: nn.Module, encoder: nn.Module, tap: MapTap, sources: int = 2) -> None:
        self.block, self.encoder, self.tap, self.sources = block, encoder, tap, sources

    @torch.no_grad()
    def share(self, images: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the share of each source.

        Args:
            images: Shape ``(B, C, h, w)``, as the encoder was trained on.
            partner: Rows of the other sources, shape ``(B, K - 1)``.
            lam: Wanted shares, shape ``(B, K)`` or ``(1, K)``.
            size: Height and width of the masks.

        Returns:
            Shape ``(B, K, H, W)``, float32, summing to one over K.
        """
        weight = next(self.encoder.parameters(), images)
        with undisturbed(self.encoder), undisturbed(self.block):
            features = self.tap.map(self.encoder, images.to(weight.dtype))
            others = [features.index_select(0, rows) for rows in partner.unbind(1)]
            if isinstance(self.block, AdaptiveMask):
                return self.block(torch.stack((features, *others), 1), lam, size)
            own = self.block(features, others[0], lam[:, 0], size)
            return torch.cat((own, 1 - own), 1)
