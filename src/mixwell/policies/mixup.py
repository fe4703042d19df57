"""MixUp."""

from __future__ import annotations

from typing import ClassVar

from mixwell.batch import Pairs
from mixwell.plan import BlendPlan
from mixwell.policy import Policy


class MixUp(Policy):
    """Blend two images and their labels in the same ratio.

    ``mixed = lam * anchor + (1 - lam) * partner``, with ``lam ~ Beta(alpha, alpha)``.

    Args:
        alpha: Distribution of the ratio. The paper uses 1 on CIFAR; 0.2 is usual on ImageNet ResNets, 0.8 on vision
            transformers, 0.1 in the ResNet-strikes-back recipes. ``Folded(Beta(alpha))`` gives the anchor at least half
            of the weight.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.

    Note:
        The published code draws one ratio per batch and pairs by a random permutation, in which an image may be
        its own partner; both are the default.

    Source: Zhang et al., *mixup: Beyond Empirical Risk Minimization*, ICLR 2018 (arXiv:1710.09412).

    Example:
        >>> import torch
        >>> mixed = MixUp(alpha=1.0, scope="sample")(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> mixed.images.shape, mixed.weights.shape
        (torch.Size([8, 3, 32, 32]), torch.Size([8, 2]))
    """

    any_dims: ClassVar[bool] = True

    def plan(self, pairs: Pairs) -> BlendPlan:
        """See :meth:`Policy.plan`."""
        return BlendPlan(pairs)
