"""SaliencyMix."""

from __future__ import annotations

from typing import Literal

from mixwell.batch import Pairs
from mixwell.ops.boxes import clipped_around, cut_side, place, shifted_around
from mixwell.ops.peaks import drawn_by, peaks
from mixwell.plan import BoxPlan
from mixwell.policy import Policy, SaliencySource, Scope
from mixwell.saliency import FineGrained
from mixwell.typecheck import PositiveFloat, PositiveInt


class SaliencyMix(Policy):
    """CutMix with the box around the most salient point of the partner, so that the patch shows its object.

    Args:
        alpha: Distribution of ``lam``. The paper uses 1, SUMix's tables 0.2.
        pairing: See :class:`Policy`.
        scope: ``"sample"`` gives every image its own box around its own partner's peak; ``"batch"`` uses the peak of
            the first image's partner for all, as published.
        saliency: Saliency source: a :class:`Saliency` or any callable ``(model, images, labels) -> (B, h, w)``.
            Maps may be smaller than the images.
        box: ``"clip"`` clips the box at the border, as published; ``"inside"`` shifts it until it is inside.
        draw_centre: Draw the centre with a probability proportional to the saliency instead of taking the peak.
        temperature: Draw it from the softmax of the map, as shares of its peak, over this temperature; needs
            ``draw_centre=True``. 0.01 stays near the peak, 1 is nearly uniform.
        levels: Round the maps down to this many levels before looking for the peak; published: 255. ``None`` does not
            round. For maps from 0 to 1, such as those of :class:`FineGrained`.

    Raises:
        ValueError: A setting is unknown, or there are no saliency maps.

    Note:
        The published code feeds normalized float images to a detector that reads bytes; its map is noise (correlation
        below 0.05 with the right one) and one box serves the whole batch. The default is the method of the paper; two
        users reported worse accuracy with a box per sample.

    Source: Uddin et al., *SaliencyMix: A Saliency Guided Data Augmentation Strategy for Better Regularization*, ICLR
        2021 (arXiv:2006.01791).

    Example:
        >>> import torch
        >>> spot = torch.zeros(4, 8, 8)
        >>> spot[:, 4, 4] = 1.0
        >>> mixed = SaliencyMix()(torch.rand(4, 3, 32, 32), torch.arange(4), saliency=spot)
        >>> mixed.plan
        BoxPlan(sources=(4, 2), size=(32, 32))
    """

    scope: Scope = "sample"
    saliency: SaliencySource | None = FineGrained()
    box: Literal["clip", "inside"] = "clip"
    draw_centre: bool = False
    temperature: PositiveFloat | None = None
    levels: PositiveInt | None = None

    uses_saliency = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature is not None and not self.draw_centre:
            raise ValueError(f"temperature={self.temperature} needs draw_centre=True.")

    def plan(self, pairs: Pairs) -> BoxPlan:
        """See :meth:`Policy.plan`."""
        maps = pairs.saliency_b[: len(pairs.lam)]  # one box per batch follows the first image's partner
        if self.draw_centre:
            centre = drawn_by(maps, pairs.rand(1)[:, 0], pairs.size, self.temperature)
        else:
            centre = peaks(maps, pairs.size, self.levels)
        rule = clipped_around if self.box == "clip" else shifted_around
        return BoxPlan(pairs, place(rule, pairs.size, cut_side(pairs.lam), centre))
