"""GuidedMixup."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import Batch, Pairs
from mixwell.ops.cells import divided, summing_to_one
from mixwell.ops.residual import gaussian_blur
from mixwell.pairing import Greedy, Pairing
from mixwell.plan import MaskPlan
from mixwell.policy import Policy, SaliencySource
from mixwell.saliency import SpectralResidual
from mixwell.typecheck import PositiveFloat


class GuidedMix(Policy):
    """Blend every pixel in the ratio of the two images' saliencies, and pair images with different saliency.

    No ratio is drawn: the anchor's share of a pixel is its saliency over the sum of both.

    Args:
        alpha: Not used.
        pairing: :class:`Greedy` pairs each image with one whose saliency differs most, as published.
        scope: Not used; every pair has its own mask.
        saliency: Saliency source: :class:`SpectralResidual` (SR in the paper) or :class:`InputGradient` (AP).
        blur: Size of the Gaussian that smooths the maps, in pixels, odd; 0 for none.
        sigma: Width of that Gaussian, in pixels.

    Raises:
        ValueError: ``blur`` is even, or there are no saliency maps.

    Note:
        Use it with probability 0.5 (SR) or 0.8 (AP), ``Sometimes(GuidedMix(), p=0.5)``, as published. OpenMixup
        computes the greedy pairs and then mixes random ones, and gives NaN where both saliencies are 0.

    Source: Kang and Kim, *GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps*, AAAI 2023
        (arXiv:2306.16612).

    Example:
        >>> import torch
        >>> mixed = GuidedMix()(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> bool((mixed.plan.sources[:, 0] != mixed.plan.sources[:, 1]).all())
        True
    """

    pairing: Pairing = Greedy()
    saliency: SaliencySource | None = SpectralResidual()
    blur: int = 7
    sigma: PositiveFloat = 3.0

    uses_saliency = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blur < 0 or (self.blur and self.blur % 2 == 0):
            raise ValueError(f"blur must be odd, or 0 for none, but got {self.blur}.")

    def _prepared(self, maps: Tensor, batch: Batch) -> Tensor:
        return self.guidance(maps, batch.size)

    def guidance(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize saliency maps ``(B, h, w)`` to the images' size, smooth them, and scale each to a sum of one."""
        if maps.shape[1:] != size:
            maps = F.interpolate(maps[:, None], size, mode="bilinear", antialias=True)[:, 0]
        return summing_to_one(gaussian_blur(maps, self.blur, self.sigma) if self.blur else maps)

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        mask = divided(pairs.saliency_a, pairs.saliency_b)[:, None]
        return MaskPlan(pairs.with_lam(mask.mean((1, 2, 3))), mask)
