"""Saliency from the attention of a transformer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixwell.features.attention import AttentionHook
from mixwell.features.isolation import undisturbed
from mixwell.saliency.activation import NetworkSaliency


class Attention(NetworkSaliency):
    """The attention that each patch receives in the last block of a transformer, averaged over the heads.

    Args:
        teacher: See :class:`Activation`.
        by_patches: Average the attention of all patches, as SMMix does, instead of taking that of the class token, as
            TransMix and MergeMix do. Without a class token it is always the average.

    Raises:
        TypeError: The teacher is not a module.
        ValueError: When called: there is no model, or no attention in it, or images are not floating point.

    Source: Chen et al., *TransMix: Attend to Mix for Vision Transformers*, CVPR 2022 (arXiv:2111.09833); Chen et al.,
    *SMMix: Self-Motivated Image Mixing for Vision Transformers*, ICCV 2023 (arXiv:2212.12977).

    Example:
        >>> import timm
        >>> model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=5)
        >>> Attention()(model, torch.rand(2, 3, 32, 32), torch.tensor([0, 4])).shape
        torch.Size([2, 2, 2])
    """

    by_patches: bool = False

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        network = self._network(model, images)
        hook = AttentionHook(network)
        with torch.no_grad(), undisturbed(network), hook:
            network(images)
        return hook.take(images, self.by_patches)
