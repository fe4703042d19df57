"""Residual networks with a stem for 32-pixel images.

The usual ImageNet stem shrinks an image four times before the first block; here a 3x3 convolution of stride one takes
its place and the max-pool is left out. Everything else, names included, is as in torchvision, so weights copy over.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


def conv(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Return a convolution without bias that keeps the image size at stride one."""
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    """Return the projection a block needs when its shape changes."""
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + (x if self.downsample is None else self.downsample(x)))


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 (32 groups of 4 channels at width 64) and 1x1 convolutions, and a shortcut."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        inner, outputs = width * 2, width * self.expansion
        self.conv1, self.bn1 = conv(inputs, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride, groups=32), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = conv(inner, outputs, 1), nn.BatchNorm2d(outputs)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        return F.relu(self.bn3(self.conv3(residual)) + (x if self.downsample is None else self.downsample(x)))


class PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after its batch norm and ReLU, and a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), conv(inputs, width, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width, 3)
        self.downsample = None if stride == 1 and inputs == width else conv(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(active))))
        # A projection reads the activated input, an identity the raw one: as in Wide Residual Networks.
        return residual + (x if self.downsample is None else self.downsample(active))


class ResNet(nn.Module):
    """A residual network for 32-pixel images with stages ``layer1``, ``layer2``, ...

    Args:
        block: ``BasicBlock``, ``ResNeXtBlock`` or ``PreActBlock``.
        depths: Blocks per stage; every stage but the first halves the image.
        widths: Channels per stage, before the block's expansion.
        stem: Channels after the first convolution.
        num_classes: Width of the output.
        in_chans: Channels of the images.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[ResNeXtBlock] | type[PreActBlock],
        depths: Sequence[int],
        widths: Sequence[int],
        stem: int,
        num_classes: int,
        in_chans: int,
    ) -> None:
        super().__init__()
        late = block is PreActBlock  # pre-activation networks normalise after the last block, not after the stem
        self.conv1 = conv(in_chans, stem, 3)
        self.bn1 = nn.BatchNorm2d(widths[-1] if late else stem)
        self.stages, channels = [], stem
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            blocks = []
            for position in range(depth):
                blocks.append(block(channels, width, 2 if index and not position else 1))
                channels = width * block.expansion
            self.stages.append(f"layer{index + 1}")
            self.add_module(self.stages[-1], nn.Sequential(*blocks))
        self.num_features = channels
        self.fc = nn.Linear(channels, num_classes)
        self.late = late
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Linear:
        """Return the layer that turns the pooled feature into logits."""
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, shape ``(B, num_features, h, w)``."""
        x = self.conv1(x)
        x = x if self.late else F.relu(self.bn1(x))
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return F.relu(self.bn1(x)) if self.late else x

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_features(x).mean((2, 3)))


def resnet18(num_classes: int, in_chans: int = 3) -> ResNet:
    """ResNet-18, 11.2 M parameters.

    Source: He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016.

    Example:
        >>> import torch
        >>> resnet18(100)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 100])
    """
    return ResNet(BasicBlock, (2, 2, 2, 2), (64, 128, 256, 512), 64, num_classes, in_chans)


def resnext50_32x4d(num_classes: int, in_chans: int = 3) -> ResNet:
    """ResNeXt-50 of 32 groups and 4 channels each, 23.2 M parameters.

    Source: Xie et al., *Aggregated Residual Transformations for Deep Neural Networks*, CVPR 2017.
    """
    return ResNet(ResNeXtBlock, (3, 4, 6, 3), (64, 128, 256, 512), 64, num_classes, in_chans)


def wide_resnet28_8(num_classes: int, in_chans: int = 3) -> ResNet:
    """Wide residual network of 28 layers, eight times as wide, 23.4 M parameters.

    Source: Zagoruyko and Komodakis, *Wide Residual Networks*, BMVC 2016.
    """
    return ResNet(PreActBlock, (4, 4, 4), (128, 256, 512), 16, num_classes, in_chans)


def mini_resnet(num_classes: int, in_chans: int = 3) -> ResNet:
    """A residual network of 8 layers for a processor without a GPU, 0.3 M parameters.

    Source: the three-stage CIFAR layout of He et al., CVPR 2016, with one block per stage and twice the width.
    """
    return ResNet(BasicBlock, (1, 1, 1), (32, 64, 128), 32, num_classes, in_chans)
