"""Label weights from the attention of a transformer to the pixels of each source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.checks import classes_of
from mixwell.labels.base import LabelPolicy, View, normalized, plan_of
from mixwell.typecheck import BelowOne, Fraction


class AttentionShare(LabelPolicy):
    """TransMix: label weights are the shares of attention that the pixels of each source receive.

    The attention is that of the class token (or, without one, of all patches on average) in the last block of the pass
    over the mixed images, so that it costs no further pass.

    Args:
        area: Weight of the pixel share in the result, in [0, 1], a number or a schedule; the authors' code has 0.5, the
            paper 0.
        nearest: Take the share of a patch at its centre instead of averaging over its pixels, as published; a thin box
            can then miss all patches.

    Raises:
        ValueError: ``area`` is out of range or, when called, there is no attention.

    Source: Chen et al., *TransMix: Attend to Mix for Vision Transformers*, CVPR 2022 (arXiv:2111.09833).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 32, 32), torch.arange(4))
        >>> weights = AttentionShare()(mixed, View(attention=torch.ones(4, 8, 8)))
        >>> bool(torch.allclose(weights, mixed.weights, atol=1e-6))  # even attention gives the pixel share
        True
    """

    area: Fraction = 0.5
    nearest: bool = False

    needs = frozenset({"attention"})

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        attended = attended_share(mixed, view.get("attention", self), self.nearest)
        return torch.lerp(attended, mixed.weights, self.area)

    def evidence(self, mixed: MixedBatch, view: View) -> Tensor:
        """Return the attention to each patch, shape ``(B, h, w)``."""
        return view.get("attention", self)


class ProgressiveAttentionShare(LabelPolicy):
    """MixPro's progressive attention labels: from the pixel share to the attention as predictions become right.

    The attention of a sample counts by the cosine between its prediction and its target by pixel shares, in [0, 1].

    Args:
        smoothing: Label smoothing of that target, in [0, 1).

    Raises:
        ValueError: The smoothing is out of range or, when called, there is no attention.

    Note:
        In the authors' code gradients also flow through the cosine; here label weights have none.

    Source: Zhao et al., *MixPro: Data Augmentation with MaskMix and Progressive Attention Labeling for Vision
    Transformer*, ICLR 2023 (arXiv:2304.12043).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 32, 32), torch.arange(4))
        >>> view = View(logits=torch.randn(4, 10), attention=torch.rand(4, 8, 8))
        >>> ProgressiveAttentionShare()(mixed, view).shape
        torch.Size([4, 2])
    """

    smoothing: BelowOne = 0.1

    needs = frozenset({"attention"})

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        logits: Tensor = view.get("logits", self)
        attended = attended_share(mixed, view.get("attention", self))
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            target = _known(mixed, logits.shape[1]).targets(logits.shape[1], self.smoothing)
            trust = F.cosine_similarity(target, logits.float().softmax(1), dim=1)
            return torch.lerp(mixed.weights, attended, trust[:, None])

    def evidence(self, mixed: MixedBatch, view: View) -> Tensor:
        """Return the attention to each patch, shape ``(B, h, w)``."""
        return view.get("attention", self)


def _known(mixed: MixedBatch, num_classes: int) -> MixedBatch:
    """Return the batch with weight 0 for labels that do not name a class, which a loss may ignore."""
    if mixed.labels.dim() == 3:
        return mixed
    labels, known = classes_of(mixed.labels, num_classes)
    return MixedBatch(mixed.images, labels, mixed.weights * known, mixed.plan)


def attended_share(mixed: MixedBatch, attention: Tensor, nearest: bool = False) -> Tensor:
    """Return the share of the attention that falls on each source.

    Args:
        mixed: The mixed batch.
        attention: Attention to each patch, shape ``(B, h, w)``, not negative.
        nearest: See :class:`AttentionShare`.

    Returns:
        Weights ``(B, K)``, float32, with the row sums of the pixel shares.

    Raises:
        ValueError: The attention does not have this shape.

    Example:
        >>> from mixwell import NoMix
        >>> attended_share(NoMix()(torch.rand(1, 3, 4, 4), torch.tensor([1])), torch.rand(1, 2, 2))
        tensor([[1., 0.]])
    """
    if attention.dim() != 3 or len(attention) != len(mixed):
        raise ValueError(f"attention must have shape ({len(mixed)}, h, w), but got {tuple(attention.shape)}.")
    with torch.no_grad(), torch.autocast(attention.device.type, enabled=False):
        share = patch_shares(mixed, (attention.shape[1], attention.shape[2]), nearest)
        seen = (share * attention.float()[:, None]).sum((2, 3))
        return normalized(seen, mixed)


def patch_shares(mixed: MixedBatch, grid: tuple[int, int], nearest: bool = False) -> Tensor:
    """Return the share of each source in each patch, shape ``(B, K, h, w)``, float32.

    Example:
        >>> from mixwell import Constant, MixUp
        >>> mixed = MixUp(alpha=Constant(0.25))(torch.rand(1, 3, 4, 4), torch.tensor([1]))
        >>> patch_shares(mixed, (1, 1)).flatten()
        tensor([1., 0.])
    """
    plan = plan_of(mixed, "The label policy")
    share = plan.share(plan.size).expand(len(mixed), -1, -1, -1)
    return F.interpolate(share, grid, mode="nearest") if nearest else F.adaptive_avg_pool2d(share, grid)
