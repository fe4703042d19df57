"""ResizeMix."""

from __future__ import annotations

from typing import Literal

from mixwell.batch import Pairs
from mixwell.ops.boxes import clipped, place, shifted, whole_image
from mixwell.plan import BoxPlan
from mixwell.policy import Policy
from mixwell.ratio import Ratio, Uniform


class ResizeMix(Policy):
    """Paste the whole partner, scaled down, into the anchor; labels follow the area.

    Unlike CutMix the pasted patch always shows the partner's object.

    Args:
        alpha: Distribution of the side ``tau`` of the pasted image as a share of the anchor's side; not of ``lam``,
            which is ``1 - tau ** 2``.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        box: ``"inside"`` shifts the box until it is inside, as the authors do; ``"clip"`` clips it at the border and
            scales the whole partner to what is left, as OpenMixup does.
        interpolation: ``"nearest"``, as published, ``"bilinear"`` or ``"area"``.

    Raises:
        ValueError: A setting is unknown.

    Note:
        OpenMixup clips, and returns the mask transposed; its ``alpha=1`` draws the same sides as the default here.
        The mean weight of the anchor is 0.77 inside and 0.85 clipped, where small boxes near the border add to it.

    Source: Qin et al., *ResizeMix: Mixing Data with Preserved Object Information and True Labels*, 2020
        (arXiv:2012.11101).

    Example:
        >>> import torch
        >>> mixed = ResizeMix()(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> bool(mixed.weights[0, 0] >= 1 - 0.8**2)
        True
    """

    alpha: float | Ratio = Uniform(0.1, 0.8)
    box: Literal["inside", "clip"] = "inside"
    interpolation: Literal["nearest", "bilinear", "area"] = "nearest"

    def plan(self, pairs: Pairs) -> BoxPlan:
        """See :meth:`Policy.plan`."""
        tau = pairs.lam
        rule = shifted if self.box == "inside" else clipped
        boxes = place(rule, pairs.size, tau[:, None], pairs.rand(2))
        return BoxPlan(pairs.with_lam(1 - tau**2), boxes, whole_image(boxes, pairs.size), self.interpolation)
