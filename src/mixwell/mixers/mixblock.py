"""The network that learns where to mix: features of a pair and a ratio in, a mask out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.value import Value

UPSAMPLING = ("nearest", "bilinear", "bicubic")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of every place of a map ``(B, C, h, w)``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "layer": ChannelNorm}


class BlockSettings(Value, ABC):
    """What kind of block predicts masks, before the number of channels is known.

    Args:
        reduction: Queries and keys have this many times fewer channels than the features.
        norm: ``"batch"`` or ``"layer"`` norm (over channels) on queries and keys, or ``None``.
        upsampling: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``: from the map to the image, before the share is
            formed.

    Raises:
        ValueError: A setting is unknown or not positive.
    """

    reduction: int = 2
    norm: str | None = None
    upsampling: str = "nearest"

    def __post_init__(self) -> None:
        if self.reduction < 1:
            raise ValueError(f"reduction must be at least 1, but got {self.reduction}.")
        if self.norm is not None and self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)} or None, but got {self.norm!r}.")
        if self.upsampling not in UPSAMPLING:
            raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLING)}, but got {self.upsampling!r}.")

    def width(self, channels: int) -> int:
        """Return the channels of queries and keys."""
        if channels < self.reduction:
            raise ValueError(f"A map of {channels} channels cannot be reduced {self.reduction} times.")
        return channels // self.reduction

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring a map ``(B, K, h, w)`` to image size."""
        return F.interpolate(
            logits, size, mode=self.upsampling, align_corners=None if self.upsampling == "nearest" else False
        )

    @abstractmethod
    def build(self, channels: int) -> nn.Module:
        """Return a new block for maps of so many channels."""


class PairAttention(BlockSettings):
    """Settings of a :class:`MixBlock`; the defaults are AutoMix's on CIFAR, ``lam_concat=True`` its on ImageNet.

    Args:
        reduction: See :class:`BlockSettings`.
        norm: See :class:`BlockSettings`.
        upsampling: See :class:`BlockSettings`.
        lam_concat: Tell the ratio by a channel of its own, ``lam`` beside the anchor and ``1 - lam`` beside the
            partner.
        lam_concat_value: The same, but for the value alone.
        lam_multiply: Tell the ratio by a factor on the features, of this strength; 0 does not. SAMix has 1.
        residual: Multiply by ``1 + r(lam)`` instead of ``r(lam)``, whatever the strength of the latter.
        k: How flat :func:`ease` is around a half; ``None`` takes ``lam`` itself.
        pair: Queries and keys read both images, through a projection each, instead of one each through a shared one.
        neck: Make the value with two layers instead of one.
        dropout: Behind the neck's last layer, in [0, 1).

    Raises:
        ValueError: A setting is unknown, out of range, or contradicts another.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027);
    Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454).

    Example:
        >>> block = PairAttention(lam_concat=True).build(16)
        >>> block(torch.rand(2, 16, 4, 4), torch.rand(2, 16, 4, 4), 0.3, (8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    lam_concat: bool = False
    lam_concat_value: bool = False
    lam_multiply: float = 0.0
    residual: bool = True
    k: float | None = None
    pair: bool = False
    neck: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lam_concat and self.lam_concat_value:
            raise ValueError("lam_concat gives the value its channel already: leave lam_concat_value out.")
        if self.lam_multiply < 0 or (self.k is not None and self.k < 0) or not 0 <= self.dropout < 1:
            raise ValueError(
                "lam_multiply and k must not be negative, and dropout must lie in [0, 1), but got "
                f"{self.lam_multiply}, {self.k} and {self.dropout}."
            )

    def build(self, channels: int) -> MixBlock:
        """See :meth:`BlockSettings.build`."""
        return MixBlock(channels, self)


def ease(lam: Tensor, k: float | None = None) -> Tensor:
    """Flatten a ratio around a half, keeping 0, 1/2 and 1 where they are.

    Args:
        lam: Ratios in [0, 1].
        k: Flatter for smaller values, nearly straight for large ones; ``None`` returns ``lam``.

    Example:
        >>> ease(torch.tensor([0.1, 0.25, 0.5]), k=0.25)
        tensor([0.1823, 0.3571, 0.5000])
    """
    if k is None:
        return lam
    slope = k + 1.0
    return (4 / 3 * lam**3 - 2 * lam**2 + slope * lam) / (slope - 2 / 3)


def projection(inputs: int, outputs: int, norm: str | None, activation: bool = False) -> nn.Sequential:
    """Return a 1x1 convolution with what follows it; a norm takes the place of its bias."""
    layers = [nn.Conv2d(inputs, outputs, 1, bias=norm is None)]
    return nn.Sequential(*layers, *([NORMS[norm](outputs)] if norm else []), *([nn.ReLU()] if activation else []))


def initialise(block: nn.Module) -> None:
    """Start convolutions near zero, so that every pixel is first shared out evenly."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def places(maps: Tensor) -> Tensor:
    """View maps ``(B, C, h, w)`` as one vector for each place, shape ``(B, h * w, C)``."""
    return maps.flatten(2).transpose(1, 2)


def ratios(lam: Tensor | float, maps: Tensor) -> Tensor:
    """Bring ratios to the maps, shape ``(S, 1, 1, 1)``, float32."""
    return torch.as_tensor(lam, dtype=torch.float32, device=maps.device).reshape(-1, 1, 1, 1)


class MixBlock(nn.Module):
    """Predicts which pixels of a pair come from the anchor.

    Every place of the anchor looks up, by similarity, how much the matching content of the partner is worth, and cedes
    its pixels accordingly. All arithmetic is in float32, under autocast too. A fresh block shares every pixel evenly,
    whatever the ratio.

    Args:
        channels: Channels C of the feature maps.
        settings: What kind of block.

    Raises:
        ValueError: The channels are fewer than the reduction, or the maps do not fit.

    Source: See :class:`PairAttention`.

    Example:
        >>> block = MixBlock(16)
        >>> features, partner = torch.rand(4, 16, 4, 4), torch.tensor([1, 2, 3, 0])
        >>> share = block(features, features[partner], torch.rand(4), (32, 32))
        >>> share.shape, bool((share - 0.5).abs().max() < 0.1)
        (torch.Size([4, 1, 32, 32]), True)
    """

    def __init__(self, channels: int, settings: PairAttention = PairAttention()) -> None:
        super().__init__()
        self.channels, self.settings = channels, settings
        width = settings.width(channels)
        read = (channels + settings.lam_concat) * (2 if settings.pair else 1)
        self.query = projection(read, width, settings.norm)
        self.key = projection(read, width, settings.norm) if settings.pair else None
        valued = channels + (settings.lam_concat or settings.lam_concat_value)
        self.value = _neck(valued, channels // 2, settings.dropout) if settings.neck else nn.Conv2d(valued, 1, 1)
        initialise(self)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.settings}"

    def forward(self, a: Tensor, b: Tensor, lam: Tensor | float, size: tuple[int, int]) -> Tensor:
        """Predict masks.

        Args:
            a: Features of the anchors, shape ``(B, C, h, w)``.
            b: Features of the partners, alike.
            lam: The anchor's wanted share, a number or shape ``(1,)`` or ``(B,)``, in [0, 1].
            size: Height and width of the images.

        Returns:
            The anchor's share, shape ``(B, 1, H, W)``, float32.
        """
        check_maps(a, self.channels)
        with torch.autocast(a.device.type, enabled=False):
            query, key, value = self.project(a, b, lam)
            taken = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
            logits = taken.transpose(1, 2).unflatten(2, a.shape[2:])
            return torch.sigmoid(-self.settings.upsample(logits, size))

    def project(self, a: Tensor, b: Tensor, lam: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys ``(B, h * w, C / reduction)`` and values ``(B, h * w, 1)``, float32."""
        s, lam = self.settings, ratios(lam, a)
        a, b = a.float(), b.float()
        if s.lam_multiply:
            eased = ease(lam, s.k)
            a = a * (1 + s.lam_multiply * eased if s.residual else eased)
            b = b * (1 + s.lam_multiply * (1 - eased) if s.residual else 1 - eased)
        told = _with_channel(b, 1 - lam) if s.lam_concat or s.lam_concat_value else b
        if s.lam_concat:
            a, b = _with_channel(a, lam), told
        if s.pair:
            a = b = torch.cat((a, b), 1)
        key = self.query if self.key is None else self.key
        return places(self.query(a)), places(key(b)), places(self.value(told))

    def attention(self, a: Tensor, b: Tensor, lam: Tensor | float) -> Tensor:
        """Return how much every place of the anchor looks at every place of the partner, ``(B, h * w, h * w)``."""
        with torch.autocast(a.device.type, enabled=False):
            query, key, _ = self.project(a, b, lam)
            return (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(2)


def check_maps(maps: Tensor, channels: int) -> None:
    """Raise unless maps have the number of channels that a block was made for."""
    if maps.dim() != 4 or maps.shape[1] != channels:
        raise ValueError(
            f"The mix block was made for maps (B, {channels}, h, w), but got {tuple(maps.shape)}: name another layer, "
            "or give the right channels=."
        )


def _with_channel(maps: Tensor, value: Tensor) -> Tensor:
    return torch.cat((maps, value.expand(len(maps), 1, *maps.shape[2:])), 1)


def _neck(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1, bias=False),
        nn.BatchNorm2d(hidden),
        nn.ELU(),
        nn.Conv2d(hidden, 1, 1, bias=False),
        nn.Dropout(dropout),
    )
