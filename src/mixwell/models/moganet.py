"""MogaNet, a convolutional network that gates features of three ranges, for images of 224 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.models.depth import StochasticDepth, drop_rates

SCALE = 1e-5  # initial value of all scales


def scale(width: int) -> nn.Parameter:
    """Return a scale for every channel."""
    return nn.Parameter(torch.full((width,), SCALE))


def depthwise(width: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    """Return a depthwise convolution that keeps the size of the map."""
    return nn.Conv2d(width, width, kernel, 1, kernel // 2 * dilation, dilation, groups=width)


class SpatialAggregation(nn.Module):
    """Multi-order gated aggregation: feature decomposition, three ranges of context, and a gate (section 4.2).

    Note: the released network, unlike the formulas, adds the input once more.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        middle, high = 3 * width // 8, width // 2
        self.parts = (width - middle - high, middle, high)
        self.proj, self.decompose = nn.Conv2d(width, width, 1), scale(width)
        self.gate = nn.Conv2d(width, width, 1)
        self.low, self.middle, self.high = depthwise(width, 5), depthwise(middle, 5, 2), depthwise(high, 7, 3)
        self.value, self.out = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.proj(x)
        y = F.silu(y + self.decompose[:, None, None] * (y - y.mean((2, 3), keepdim=True)))
        low, middle, high = self.low(y).split(self.parts, 1)
        value = self.value(torch.cat((low, self.middle(middle), self.high(high)), 1))
        return x + self.out(F.silu(self.gate(y)) * F.silu(value))


class ChannelAggregation(nn.Module):
    """An MLP with a depthwise convolution, whose hidden channels are compared with one map of all (section 4.3)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = ratio * width
        self.fc1, self.conv = nn.Conv2d(width, hidden, 1), depthwise(hidden, 3)
        self.gather, self.decompose = nn.Conv2d(hidden, 1, 1), scale(hidden)
        self.fc2 = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv(self.fc1(x)))
        return self.fc2(x + self.decompose[:, None, None] * (x - F.gelu(self.gather(x))))


class Block(nn.Module):
    """Spatial and channel aggregation, each after a batch norm and beside a shortcut."""

    def __init__(self, width: int, ratio: int, rate: float) -> None:
        super().__init__()
        self.norm1, self.spatial, self.scale1 = nn.BatchNorm2d(width), SpatialAggregation(width), scale(width)
        self.norm2, self.channel, self.scale2 = nn.BatchNorm2d(width), ChannelAggregation(width, ratio), scale(width)
        self.drop_path = StochasticDepth(rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1[:, None, None] * self.spatial(self.norm1(x)))
        return x + self.drop_path(self.scale2[:, None, None] * self.channel(self.norm2(x)))


def halving(inputs: int, outputs: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """Return a convolution that halves height and width of a map, and its norm."""
    return nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)


class MogaNet(nn.Module):
    """A MogaNet with stages ``stages.0`` to ``stages.3``, whose maps are 1/4 to 1/32 of the image.

    Args:
        num_classes: Width of the output.
        in_chans: Channels of the images.
        depths: Blocks per stage.
        drop_path_rate: Probability that the last block is left out for an image (stochastic depth).

    Source: Li et al., *MogaNet: Multi-order Gated Aggregation Network*, ICLR 2024 (arXiv:2211.03295).

    Example:
        >>> MogaNet(100)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 100])
    """

    def __init__(
        self, num_classes: int, in_chans: int = 3, depths: Sequence[int] = (3, 3, 12, 2), drop_path_rate: float = 0.0
    ) -> None:
        super().__init__()
        widths = (32, 64, 128, 256)
        self.stages, inputs = nn.Sequential(), widths[0] // 2
        stem = (*halving(in_chans, inputs), nn.GELU())
        for index, rates in enumerate(drop_rates(depths, drop_path_rate)):
            width, ratio = widths[index], 8 if index < 2 else 4
            blocks = [Block(width, ratio, rate) for rate in rates]
            before = (*(() if index else stem), *halving(inputs, width))
            self.stages.append(nn.Sequential(*before, *blocks, nn.BatchNorm2d(width)))
            inputs = width
        self.num_features, self.head = inputs, nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def get_classifier(self) -> nn.Linear:
        """Return the layer that turns the pooled feature into logits."""
        return self.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x).mean((2, 3)))


def moganet_tiny(num_classes: int, in_chans: int = 3, **settings: Any) -> MogaNet:
    """MogaNet-T for images of 224 pixels, 5.2 M parameters; see :class:`MogaNet` for the settings."""
    return MogaNet(num_classes, in_chans, **settings)
