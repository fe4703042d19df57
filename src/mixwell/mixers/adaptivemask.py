"""The mix block of AdAutoMix: a mask for each of any number of sources."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.mixers.mixblock import BlockSettings, check_maps, initialise, projection
from mixwell.value import set_field


class SourceAttention(BlockSettings):
    """Settings of an :class:`AdaptiveMask`; ``lam_concat=True, norm="batch"`` are AdAutoMix's on ImageNet.

    Args:
        reduction: See :class:`BlockSettings`.
        norm: See :class:`BlockSettings`.
        upsampling: See :class:`BlockSettings`.
        lam_concat: Tell every source its ratio, by a channel of its own.
        value_from: Whose value the attention collects: the source's ``"own"``, as published, though it looks at places
            of the ``"others"``, whose mean value is the alternative.

    Raises:
        ValueError: A setting is unknown.

    Source: Qin et al., *Adversarial AutoMixup*, ICLR 2024 (arXiv:2312.11954).

    Example:
        >>> SourceAttention().build(16)(torch.rand(2, 3, 16, 4, 4), torch.full((2, 3), 1 / 3), (8, 8)).shape
        torch.Size([2, 3, 8, 8])
    """

    upsampling: str = "bilinear"
    lam_concat: bool = False
    value_from: str = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_from not in ("own", "others"):
            raise ValueError(f"value_from must be own or others, but got {self.value_from!r}.")
        set_field(self, "lam_concat", bool(self.lam_concat))

    def build(self, channels: int) -> AdaptiveMask:
        """See :meth:`BlockSettings.build`."""
        return AdaptiveMask(channels, self)


class AdaptiveMask(nn.Module):
    """Shares every pixel out between K sources, each of which looks at all the others.

    One block serves any K from two on; all arithmetic is in float32, under autocast too.

    Args:
        channels: Channels C of the feature maps.
        settings: What kind of block.

    Raises:
        ValueError: The channels are fewer than the reduction, or the maps do not fit.

    Source: See :class:`SourceAttention`.

    Example:
        >>> shares = AdaptiveMask(16)(torch.rand(2, 5, 16, 4, 4), torch.full((1, 5), 0.2), (8, 8))
        >>> bool((shares.sum(1) - 1).abs().max() < 1e-6)
        True
    """

    def __init__(self, channels: int, settings: SourceAttention = SourceAttention()) -> None:
        super().__init__()
        self.channels, self.settings = channels, settings
        width, read = settings.width(channels), channels + settings.lam_concat
        self.query = projection(read, width, settings.norm, activation=True)
        self.key = projection(read, width, settings.norm, activation=True)
        self.value = nn.Conv2d(read, 1, 1)
        initialise(self)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.settings}"

    def forward(self, sources: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Predict shares.

        Args:
            sources: Features of every source, shape ``(B, K, C, h, w)``, K at least 2.
            lam: The wanted share of each, shape ``(B, K)`` or ``(1, K)``.
            size: Height and width of the images.

        Returns:
            Shares ``(B, K, H, W)``, float32, summing to one over K.
        """
        rows, several = sources.shape[:2]
        maps = sources.flatten(0, 1)
        check_maps(maps, self.channels)
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.float()
            if self.settings.lam_concat:
                told = lam.to(maps.dtype).expand(rows, several).reshape(-1, 1, 1, 1)
                maps = torch.cat((maps, told.expand(-1, 1, *maps.shape[2:])), 1)
            query, key, value = (
                layer(maps).unflatten(0, (rows, several)).flatten(3).transpose(2, 3)  # (B, K, h * w, width)
                for layer in (self.query, self.key, self.value)
            )
            if self.settings.value_from == "others":
                value = (value.sum(1, keepdim=True) - value) / (several - 1)
            # q_i . sum of k_j over all j but i, for every source in one call.
            logits = F.scaled_dot_product_attention(query, key.sum(1, keepdim=True) - key, value)[..., 0]
            return self.settings.upsample(logits.unflatten(2, maps.shape[2:]), size).softmax(1)
