"""TL-Align: label weights that follow the tokens through every attention block."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.features.mixing import grid_of
from mixwell.labels.attention import patch_shares
from mixwell.labels.base import LabelPolicy, View, plan_of


class TokenLabelAlignment(LabelPolicy):
    """Carry the share of each source through the attention of every block, and read it at the class token.

    Every patch starts with the shares of its pixels, every other token with the label weights. A block replaces the
    shares of a token by the mean of its own and those it attends to. Because attention rows sum to one, carrying K
    shares per token gives exactly the same weights as carrying a label over all classes.

    Raises:
        ValueError: When called: there are no attention matrices, or they do not fit the images.

    Source: Xiao et al., *Token-Label Alignment for Vision Transformers*, ICCV 2023 (arXiv:2210.06455).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(2, 3, 32, 32), torch.arange(2))
        >>> weights = TokenLabelAlignment()(mixed, View(attentions=(torch.eye(65).expand(2, 65, 65),)))
        >>> bool(torch.allclose(weights, mixed.weights))  # a class token that attends to itself keeps its weights
        True
    """

    needs = frozenset({"attentions"})

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        attentions: tuple[Tensor, ...] = view.get("attentions", self)
        with torch.no_grad(), torch.autocast(mixed.weights.device.type, enabled=False):
            plan_of(mixed, self)
            tokens = attentions[0].shape[2]
            shares, prefix = self.token_shares(mixed, tokens), tokens - math.prod(grid_of(tokens, mixed.plan.size))
            for attention in attentions:
                if attention.shape != (len(mixed), tokens, tokens):
                    raise ValueError(
                        f"{self} needs attention matrices ({len(mixed)}, {tokens}, {tokens}) of "
                        f"every block, but got {tuple(attention.shape)}: networks that merge tokens are not supported."
                    )
                shares = (shares + attention.float() @ shares) / 2
            return shares[:, 0] if prefix else shares.mean(1)

    def evidence(self, mixed: MixedBatch, view: View) -> Tensor:
        """Return the attention to each patch in the last block, shape ``(B, h, w)``."""
        attention: Tensor = view.get("attentions", self)[-1]
        height, width = grid_of(attention.shape[2], mixed.plan.size)
        prefix = attention.shape[2] - height * width
        row = attention[:, 0] if prefix else attention.mean(1)
        return row[:, prefix:].unflatten(1, (height, width))

    def token_shares(self, mixed: MixedBatch, tokens: int) -> Tensor:
        """Return the shares of each token before the first block, shape ``(B, T, K)``."""
        share = patch_shares(mixed, grid_of(tokens, mixed.plan.size)).flatten(2).transpose(1, 2)
        others = mixed.weights[:, None].expand(-1, tokens - share.shape[1], -1)
        return torch.cat((others, share), 1)
