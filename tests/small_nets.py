"""The smallest network with a feature map and the smallest transformer, for steps written out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from catalogue import CLASSES


class Net(nn.Module):
    """A convolution, a global average and a classifier."""

    attentions = ()  # attention matrices of the last forward pass, averaged over the heads

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, CLASSES)

    def rest(self, maps: Tensor) -> Tensor:
        return self.fc(maps.relu().mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        """Return the input of the classifier."""
        return self.conv(images).relu().mean((2, 3))

    def maps(self, images: Tensor) -> Tensor:
        """Return the last feature map."""
        return self.conv(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.conv(images))


class Attention(nn.Module):
    """One head, in the layout of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.attn_drop, self.seen = nn.Linear(6, 18), nn.Identity(), torch.empty(0)
        nn.init.normal_(self.qkv.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, 2)
        weights = (query @ key.transpose(1, 2)).softmax(2)
        self.seen = weights.detach()
        return tokens + self.attn_drop(weights[:, None])[:, 0] @ value


class TinyViT(Net):
    """Patches of two pixels, a class token and two blocks of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv2d(3, 6, 2, 2), nn.Parameter(torch.randn(1, 1, 6))
        self.blocks, self.fc = nn.Sequential(Attention(), Attention()), nn.Linear(6, CLASSES)

    def tokens(self, maps: Tensor) -> Tensor:
        patches = maps.flatten(2).transpose(1, 2)
        tokens = self.blocks(torch.cat((self.token.expand(len(maps), -1, -1), patches), 1))
        self.attentions = tuple(block.seen for block in self.blocks)
        return tokens

    def rest(self, maps: Tensor) -> Tensor:
        return self.fc(self.tokens(maps)[:, 0])

    def features(self, images: Tensor) -> Tensor:
        return self.tokens(self.conv(images))[:, 0]

    def maps(self, images: Tensor) -> Tensor:
        return self.tokens(self.conv(images))[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
