"""CutMix."""

from __future__ import annotations

from typing import ClassVar, Literal

from mixwell.batch import Pairs
from mixwell.ops.boxes import area_weights, clipped, cut_side, extent, fitted, in_box, inside, matched, place
from mixwell.plan import BoxPlan, MaskPlan
from mixwell.plan.base import of_two
from mixwell.policy import Policy
from mixwell.typecheck import Fraction, PositiveFloat


class CutMix(Policy):
    """Paste a box of the partner at the same place of the anchor; labels follow the area.

    The box has ``sqrt(1 - lam)`` of each side of the image, so that its area is ``1 - lam`` before clipping.

    Args:
        alpha: Distribution of ``lam``. The paper uses 1, SUMix's tables 0.2; 1 is usual on ImageNet.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        box: ``"clip"`` draws the centre over the whole image and clips the box at the border, as published;
            ``"inside"`` draws among the positions where the whole box fits.
        minmax: Draw both sides uniformly between these shares of the image's sides instead, fully inside, as timm's
            ``cutmix_minmax``; ``alpha``, ``box``, ``odd``, ``match_area`` and ``aspect`` then have no effect.
        correct_lam: Label weights from the pasted area; ``False`` uses the drawn ratio. timm's author found that
            the correction hurts on CUB.
        odd: ``"floor"`` loses a pixel of an odd side, as published; ``"exact"`` keeps it, as timm does.
        match_area: Choose sides whose area is closer to ``1 - lam`` than with both rounded down: within half a row
            or column. With ``odd="exact"``, or inside, no pixel is lost to rounding afterwards; ``"clip"`` still clips.
        aspect: Range of the box's height over its width, relative to the image's, drawn uniformly on a log scale.

    Raises:
        ValueError: A setting is unknown or out of range.

    Note:
        The defaults are those of the authors' code, including the pixel that an odd side loses; unlike that code this
        does not write into the batch. Clipping removes more than a third of the mixing: at alpha 1 and 224 pixels the
        mean weight of the anchor is 0.68, at 32 pixels 0.71, against 0.50 with ``box="inside"``.

    Source: Yun et al., *CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features*, ICCV
        2019 (arXiv:1905.04899).

    Example:
        >>> import torch
        >>> mixed = CutMix(alpha=0.2)(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> bool(mixed.weights.sum(1).allclose(torch.ones(8)))
        True
    """

    box: Literal["clip", "inside"] = "clip"
    minmax: tuple[Fraction, Fraction] | None = None
    correct_lam: bool = True
    odd: Literal["floor", "exact"] = "floor"
    match_area: bool = False
    aspect: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)

    any_dims: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minmax is not None and not self.minmax[0] < self.minmax[1]:
            raise ValueError(f"minmax must be two shares of the side, low < high, but got {self.minmax}.")
        if self.aspect[0] > self.aspect[1]:
            raise ValueError(f"aspect must be two ratios in order, but got {self.aspect}.")

    def plan(self, pairs: Pairs) -> BoxPlan | MaskPlan:
        """See :meth:`Policy.plan`."""
        if len(pairs.space) != 2:
            return self._in_space(pairs)
        if self.minmax is not None:
            return self._between(pairs, *self.minmax)
        stretch = None
        if self.aspect != (1.0, 1.0):
            low, high = self.aspect
            stretch = low * (high / low) ** pairs.rand(1)[:, 0]
        side = cut_side(pairs.lam, stretch)
        if self.match_area:
            side = matched(pairs.size, side, pairs.lam)
        boxes = place(clipped if self.box == "clip" else inside, pairs.size, side, pairs.rand(2), self.odd)
        return BoxPlan(pairs, boxes, weight=None if self.correct_lam else pairs.lam)

    def _between(self, pairs: Pairs, low: float, high: float) -> BoxPlan:
        side = low + (high - low) * pairs.rand(2)
        boxes = place(inside, pairs.size, side, pairs.rand(2))
        return BoxPlan(pairs.with_lam(area_weights(boxes, pairs.size)[:, 0]), boxes)

    def _in_space(self, pairs: Pairs) -> MaskPlan:
        """Cut an interval out of a signal, or a box out of a volume."""
        space = pairs.space
        if self.minmax is None:
            side, rule = fitted(space, pairs.lam), clipped if self.box == "clip" else inside
        else:
            low, high = self.minmax
            side, rule = low + (high - low) * pairs.rand(len(space)), inside
        kept = ~in_box(*rule(extent(space, side.device), side, pairs.rand(len(space)), "exact"), space)
        if self.minmax is not None:
            pairs = pairs.with_lam(kept.float().flatten(1).mean(1))
        plan = MaskPlan(pairs, kept.view(-1, 1, *pairs.size))
        if not self.correct_lam:
            plan.weights = of_two(pairs.lam).expand(len(pairs), 2)
        return plan
