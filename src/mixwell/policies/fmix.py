"""FMix."""

from __future__ import annotations

from typing import ClassVar, Literal

from mixwell.batch import Pairs
from mixwell.ops.fourier import isotropic_field, largest, published_field
from mixwell.plan import MaskPlan
from mixwell.policy import Policy
from mixwell.ratio import Beta, Ratio
from mixwell.typecheck import NonNegativeFloat, UpToHalf


class FMix(Policy):
    """Mix with binary masks whose contours are level sets of a smooth random field.

    Args:
        alpha: Distribution of ``lam``. The paper uses 1, SUMix's tables 0.2.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        decay: Exponent with which amplitudes fall with frequency; larger gives smoother shapes.
        soft: Width of the soft edge, as a share of the pixels on either side of the contour, at most ``min(lam, 1 -
            lam)``.
        reformulated: Draw ``lam ~ Beta(alpha + 1, alpha)`` instead; needs a number as ``alpha``.
        spectrum: ``"isotropic"``, the construction of the paper, or ``"published"``, that of its code.

    Raises:
        ValueError: A setting is unknown or out of range.

    Note:
        The published code indexes the wrong axis of its noise, so that only the horizontal frequencies 0 and 1
        remain and shapes are slanted; the default is the construction of the paper. The label weight is the share of
        pixels, within ``1 / (H * W)`` of the drawn ratio that the published code uses.

    Source: Harris et al., *FMix: Enhancing Mixed Sample Data Augmentation*, 2020 (arXiv:2002.12047).

    Example:
        >>> import torch
        >>> FMix(alpha=0.2)(torch.rand(8, 3, 32, 32), torch.arange(8)).plan
        MaskPlan(sources=(8, 2), size=(32, 32))
    """

    decay: NonNegativeFloat = 3.0
    soft: UpToHalf = 0.0
    reformulated: bool = False
    spectrum: Literal["isotropic", "published"] = "isotropic"

    any_dims: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.reformulated and isinstance(self.alpha, Ratio):
            raise ValueError(
                f"reformulated=True derives its distribution from a number: alpha must be one, but is {self.alpha}."
            )
        super().__post_init__()

    def _lam_ratio(self) -> Ratio:
        if self.reformulated and not isinstance(self.alpha, Ratio):
            return Beta(self.alpha + 1, beta=self.alpha)
        return super()._lam_ratio()

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        space = pairs.space
        make_field = isotropic_field if self.spectrum == "isotropic" else published_field
        field = make_field(pairs.randn(*space[:-1], space[-1] // 2 + 1, 2), space, self.decay)
        mask = largest(field, pairs.lam, pairs.rand(1)[:, 0] > 0.5, self.soft)
        return MaskPlan(pairs, mask.view(-1, 1, *pairs.size))
