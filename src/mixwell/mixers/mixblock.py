"""The mix block of AutoMix and SAMix: feature maps of a pair and a ratio in, a mask out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.typecheck import BelowOne, NonNegativeFloat, PositiveInt
from mixwell.value import Value


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels at each position of a map ``(B, C, h, w)``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (torch's name)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "layer": ChannelNorm}


Upsampling = Literal["nearest", "bilinear", "bicubic"]


class BlockSettings(Value, ABC):
    """Settings of a mix block, which is built when the number of channels is known.

    Args:
        reduction: Factor by which queries and keys have fewer channels than the features.
        norm: Norm of queries and keys: ``"batch"``, ``"layer"`` (over channels), or ``None``.
        upsampling: How logits are resized from the map to the image: ``"nearest"``, ``"bilinear"`` or ``"bicubic"``.

    Raises:
        ValueError: A setting is unknown or not positive.
    """

    reduction: PositiveInt = 2
    norm: Literal["batch", "layer"] | None = None
    upsampling: Upsampling = "nearest"

    def width(self, channels: int) -> int:
        """Return the number of channels of queries and keys."""
        if channels < self.reduction:
            raise ValueError(f"A map of {channels} channels cannot be reduced by a factor of {self.reduction}.")
        return channels // self.reduction

    def upsample(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize a map ``(B, K, h, w)`` to the size of the images, in float32."""
        align = None if self.upsampling == "nearest" else False
        return F.interpolate(logits.float(), size, mode=self.upsampling, align_corners=align)

    @abstractmethod
    def build(self, channels: int) -> Block:
        """Return a new block for maps with this many channels."""


class Block(nn.Module, ABC):
    """A network that predicts the share of every source in every pixel.

    Args:
        channels: Channels C of the feature maps.
        settings: Settings of the block.
    """

    def __init__(self, channels: int, settings: BlockSettings) -> None:
        super().__init__()
        self.channels, self.settings = channels, settings

    def extra_repr(self) -> str:
        """See :meth:`torch.nn.Module.extra_repr`."""
        return f"{self.channels}, {self.settings}"

    @abstractmethod
    def shares(self, features: Tensor, partners: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """Predict the share of each source.

        Args:
            features: Feature maps of the unmixed images, shape ``(B, C, h, w)``.
            partners: Rows of the other sources, shape ``(B, K - 1)``.
            lam: Mixing ratios, shape ``(B, K)`` or ``(1, K)``.
            size: Height and width of the masks.

        Returns:
            Shape ``(B, K, H, W)``, float32, summing to one over K.
        """

    def checked(self, maps: Tensor) -> Tensor:
        """Return maps in the dtype of the block, or raise if they have another number of channels."""
        if maps.dim() != 4 or maps.shape[1] != self.channels:
            raise ValueError(
                f"The mix block was made for maps (B, {self.channels}, h, w), but got {tuple(maps.shape)}: name "
                "another layer, or give the right channels=."
            )
        return maps.to(self.query[0].weight.dtype)  # type: ignore[index,union-attr]  # every block has a query


class PairAttention(BlockSettings):
    """Settings of a :class:`MixBlock`; the defaults are those of AutoMix on CIFAR, ``lam_concat=True`` on ImageNet.

    Args:
        reduction: See :class:`BlockSettings`.
        norm: See :class:`BlockSettings`.
        upsampling: See :class:`BlockSettings`.
        lam_concat: Give the ratio to query, key and value in a channel of its own.
        lam_multiply: Multiply features by one plus this many times the ratio, not negative; SAMix has 1.0.
        k: Flatten the ratio around a half before that, see :func:`ease`; ``None`` does not.
        pair: Queries and keys are computed from both images together, with weights of their own, as in SAMix.
        neck: The value is computed by two layers, as in SAMix, instead of one.
        dropout: Dropout at the end of the neck, in [0, 1).

    Raises:
        ValueError: A setting is out of range.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027);
    Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454).

    Example:
        >>> block = PairAttention(lam_concat=True).build(16)
        >>> block(torch.rand(2, 16, 4, 4), torch.rand(2, 16, 4, 4), 0.3, (8, 8)).shape
        torch.Size([2, 1, 8, 8])
    """

    lam_concat: bool = False
    lam_multiply: NonNegativeFloat = 0.0
    k: NonNegativeFloat | None = None
    pair: bool = False
    neck: bool = False
    dropout: BelowOne = 0.0

    @property
    def lam_in_value(self) -> bool:
        """Whether the value gets the ratio in a channel of its own."""
        return self.lam_concat

    def factor(self, lam: Tensor) -> Tensor:
        """Return the factor on the features of a source with these (eased) ratios."""
        return 1 + self.lam_multiply * (lam if self.k is None else ease(lam, self.k))

    def build(self, channels: int) -> MixBlock:
        """See :meth:`BlockSettings.build`."""
        return MixBlock(channels, self)


def ease(lam: Tensor, k: float | None = None) -> Tensor:
    """Flatten a ratio around a half; 0, 1/2 and 1 are unchanged.

    Args:
        lam: Ratios in [0, 1].
        k: Flatter for smaller values, nearly linear for large ones; ``None`` returns ``lam``.

    Example:
        >>> ease(torch.tensor([0.1, 0.25, 0.5]), k=0.25)
        tensor([0.1823, 0.3571, 0.5000])
    """
    if k is None:
        return lam
    slope = k + 1.0
    return (4 / 3 * lam**3 - 2 * lam**2 + slope * lam) / (slope - 2 / 3)


def projection(inputs: int, outputs: int, norm: str | None, activation: bool = False) -> nn.Sequential:
    """Return a 1x1 convolution, a norm (which replaces its bias) and a ReLU, the latter two on request."""
    layers = [nn.Conv2d(inputs, outputs, 1, bias=norm is None)]
    return nn.Sequential(*layers, *([NORMS[norm](outputs)] if norm else []), *([nn.ReLU()] if activation else []))


def initialise(block: nn.Module) -> None:
    """Initialize convolutions near zero, so that a new block shares every pixel evenly."""
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class MixBlock(Block):
    """Predicts which pixels of a pair come from the anchor, by cross-attention between both feature maps.

    Every position of the anchor attends to the partner, whose values determine its share of the mixed image.
    Computed in the dtype of its weights, under autocast too. A new block shares every pixel evenly, whatever the ratio.

    Args:
        channels: Channels C of the feature maps.
        settings: Settings of the block.

    Raises:
        ValueError: There are fewer channels than the reduction; when called: the maps do not fit.

    Source: See :class:`PairAttention`.

    Example:
        >>> block = MixBlock(16)
        >>> features, partner = torch.rand(4, 16, 4, 4), torch.tensor([1, 2, 3, 0])
        >>> share = block(features, features[partner], torch.rand(4), (32, 32))
        >>> share.shape, bool((share - 0.5).abs().max() < 0.1)
        (torch.Size([4, 1, 32, 32]), True)
    """

    settings: PairAttention

    def __init__(self, channels: int, settings: PairAttention = PairAttention()) -> None:
        super().__init__(channels, settings)
        width = settings.width(channels)
        read = (channels + settings.lam_concat) * (2 if settings.pair else 1)
        self.query = projection(read, width, settings.norm)
        self.key = projection(read, width, settings.norm) if settings.pair else None
        self.lam_in_value = settings.lam_in_value
        valued = channels + self.lam_in_value
        self.value = _neck(valued, channels // 2, settings.dropout) if settings.neck else nn.Conv2d(valued, 1, 1)
        initialise(self)

    def forward(self, a: Tensor, b: Tensor, lam: Tensor | float, size: tuple[int, int]) -> Tensor:
        """Predict masks.

        Args:
            a: Features of the anchors, shape ``(B, C, h, w)``.
            b: Features of the partners, of the same shape.
            lam: Mixing ratio, a number or shape ``(1,)`` or ``(B,)``, in [0, 1].
            size: Height and width of the images.

        Returns:
            The anchor's share, shape ``(B, 1, H, W)``, float32.
        """
        with torch.autocast(a.device.type, enabled=False):
            query, key, value = self.project(a, b, lam)
            attended = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
            logits = attended.transpose(1, 2).unflatten(2, a.shape[2:])
            return torch.sigmoid(-self.settings.upsample(logits, size))

    def shares(self, features: Tensor, partners: Tensor, lam: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`Block.shares`; K is 2."""
        share = self(features, features.index_select(0, partners[:, 0]), lam[:, 0], size)
        return torch.cat((share, 1 - share), 1)

    def project(self, a: Tensor, b: Tensor, lam: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys ``(B, h * w, C / reduction)`` and values ``(B, h * w, 1)``."""
        s, a, b = self.settings, self.checked(a), self.checked(b)
        lam = torch.as_tensor(lam, dtype=a.dtype, device=a.device).reshape(-1, 1, 1, 1)
        if s.lam_multiply:
            a, b = a * s.factor(lam), b * s.factor(1 - lam)
        valued = _with_channel(b, 1 - lam) if self.lam_in_value else b
        if s.lam_concat:
            a, b = _with_channel(a, lam), valued
        if s.pair:
            a = b = torch.cat((a, b), 1)
        key = self.query if self.key is None else self.key
        query, key, value = self.query(a), key(b), self.value(valued)
        return query.flatten(2).mT, key.flatten(2).mT, value.flatten(2).mT  # one vector per position

    def attention(self, a: Tensor, b: Tensor, lam: Tensor | float) -> Tensor:
        """Return the attention of each position of the anchor to each of the partner, ``(B, h * w, h * w)``."""
        with torch.autocast(a.device.type, enabled=False):
            query, key, _ = self.project(a, b, lam)
            return (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(2)


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
