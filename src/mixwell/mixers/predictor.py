"""A mix block together with the network whose features it reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixwell.features.isolation import undisturbed
from mixwell.features.passes import MapHook
from mixwell.mixers.mixblock import Block


class MaskPredictor:
    """Predicts masks for unmixed images, in eval mode and without gradient; both networks are left unchanged.

    Args:
        block: See :class:`mixwell.mixers.mixblock.Block`.
        encoder: The network.
        hook: Reads the feature map that the block was made for, see :class:`MapHook`.
        sources: Number of sources K that the block is trained with, at least 2.

    Example:
        >>> from mixwell import AutoMix
        >>> from mixwell.models import mini_resnet
        >>> predictor, images = AutoMix(mini_resnet(10)).mask_predictor(), torch.rand(2, 3, 32, 32)
        >>> predictor.share(images, torch.tensor([[1], [0]]), torch.tensor([[0.3, 0.7]]), (32, 32)).shape
        torch.Size([2, 2, 32, 32])
    """

    def __init__(self, block: Block, encoder: nn.Module, hook: MapHook, sources: int = 2) -> None:
        self.block, self.encoder, self.hook, self.sources = block, encoder, hook, sources

    @property
    def layer(self) -> str:
        """Name of the layer whose feature map the block reads."""
        return self.hook.name

    @torch.no_grad()
    def share(self, images: Tensor, partner: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the share of each source.

        Args:
            images: Shape ``(B, C, h, w)``, normalized as for the training of the encoder.
            partner: Rows of the other sources, shape ``(B, K - 1)``.
            lam: Mixing ratios, shape ``(B, K)`` or ``(1, K)``.
            size: Height and width of the masks.

        Returns:
            Shape ``(B, K, H, W)``, float32, summing to one over K.
        """
        weight = next(self.encoder.parameters(), images)
        with undisturbed(self.encoder), undisturbed(self.block):
            features = self.hook.map(self.encoder, images.to(weight.dtype))
            return self.block.shares(features, partner, lam, size)
