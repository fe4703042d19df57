"""SnapMix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import Batch, Pairs
from mixwell.ops.boxes import area_weights, box_sums, clipped, cut_side, place
from mixwell.plan import BoxPlan
from mixwell.policy import Policy, SaliencySource, Scope
from mixwell.ratio import Ratio
from mixwell.saliency import ClassActivation


class SnapMix(Policy):
    """Paste a scaled box of the partner into another box of the anchor; label weights follow class activation maps.

    The anchor's weight is the share of its class activation map that is not covered, the partner's weight the share of
    its own map that was pasted: the two weights need not sum to one.

    Args:
        alpha: Distribution of the size of each of the two boxes; 5 in the paper.
        pairing: See :class:`Policy`.
        scope: ``"sample"`` draws boxes for every image; ``"batch"`` one pair of boxes for all, as published.
        saliency: Source of class activation maps.
        double_shared: Give *both* sources of one class the sum of the weights, which counts it twice, as published.

    Raises:
        ValueError: There are no saliency maps.

    Note:
        The authors' code draws one pair of boxes for the whole batch and counts a class twice that both sources share;
        both are options. OpenMixup's version stops with an error. If a box is empty nothing is mixed. Where a map is
        constant its weight falls back to the area of the box that is pasted over, for either source, as in that code;
        its branch for mid-level features is not included. The authors use it with probability 1 on pretrained networks
        and 0.5 from scratch.

    Source: Huang et al., *SnapMix: Semantically Proportional Mixing for Augmenting Fine-grained Data*, AAAI 2021
    (arXiv:2012.04846).

    Example:
        >>> mixed = SnapMix()(torch.rand(8, 3, 32, 32), torch.arange(8), saliency=torch.rand(8, 4, 4))
        >>> mixed.weights.shape
        torch.Size([8, 2])
    """

    alpha: float | Ratio = 5.0
    scope: Scope = "sample"
    saliency: SaliencySource | None = ClassActivation()
    double_shared: bool = False

    uses_saliency = True
    weights_sum_to_one = False

    def _prepared(self, maps: Tensor, batch: Batch) -> Tensor:
        return semantic_share(maps, batch.size)

    def plan(self, pairs: Pairs) -> BoxPlan:
        """See :meth:`Policy.plan`."""
        source_lam = pairs.ratio(self._lam_ratio())
        boxes = place(clipped, pairs.size, cut_side(pairs.lam), pairs.rand(2))
        source_boxes = place(clipped, pairs.size, cut_side(source_lam), pairs.rand(2))
        shared = _same_class(pairs) if self.double_shared else None
        return snap(pairs, boxes, source_boxes, shared)


def semantic_share(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Turn class activation maps ``(B, h, w)`` into shares of the image's content that sum to one, or zero if constant.

    Example:
        >>> semantic_share(torch.tensor([[[0.0, 1.0]]]), (1, 2))
        tensor([[[0., 1.]]])
    """
    maps = F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    total = maps.sum((1, 2), keepdim=True)
    return maps / torch.where(total > 0, total, 1.0)


def snap(pairs: Pairs, boxes: Tensor, source_boxes: Tensor, shared: Tensor | None = None) -> BoxPlan:
    """Plan to paste ``source_boxes`` into ``boxes`` with weights by content.

    Args:
        pairs: The pairs; their saliency maps sum to one.
        boxes: Where to paste, shape ``(S, 4)``.
        source_boxes: What to paste, shape ``(S, 4)``.
        shared: Rows whose two sources both get the sum of the weights, shape ``(B,)``, bool.
    """
    n = len(pairs)
    boxes, source_boxes = boxes.expand(n, 4), source_boxes.expand(n, 4)
    pasted = area_weights(boxes, pairs.size)[:, 1], area_weights(source_boxes, pairs.size)[:, 1]
    mixed = (pasted[0] > 0) & (pasted[1] > 0)
    covered, brought = box_sums(pairs.saliency_a, boxes), box_sums(pairs.saliency_b, source_boxes)
    covered = torch.where(pairs.saliency_a.sum((1, 2)) > 0, covered, pasted[0])
    brought = torch.where(pairs.saliency_b.sum((1, 2)) > 0, brought, pasted[0])
    weights = torch.stack((1 - covered, brought), 1).clamp(0, 1)
    if shared is not None:
        weights = torch.where(shared[:, None], weights.sum(1, keepdim=True), weights)
    alone = torch.stack((torch.ones_like(brought), torch.zeros_like(brought)), 1)
    weights = torch.where(mixed[:, None], weights, alone)
    return BoxPlan(pairs, boxes * mixed[:, None], source_boxes * mixed[:, None], "aligned", weights.float())


def _same_class(pairs: Pairs) -> Tensor:
    labels = pairs.batch.labels
    if labels.dim() != 1:
        raise ValueError("double_shared=True compares classes: it needs class indices, but the labels are dense.")
    return labels == labels[pairs.partner]
