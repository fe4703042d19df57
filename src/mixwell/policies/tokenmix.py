"""TokenMix."""

from __future__ import annotations

from typing import Annotated

from mixwell.batch import Pairs
from mixwell.ops.cells import check_pixels
from mixwell.ops.tokens import CANDIDATES, rectangles
from mixwell.plan import MaskPlan
from mixwell.policy import Policy
from mixwell.ratio import Constant, Ratio
from mixwell.typecheck import PositiveInt, Within


class TokenMix(Policy):
    """Replace tokens of the anchor by those of the partner: a union of random rectangles, or random tokens.

    Args:
        alpha: Distribution of the anchor's share; published: always one half.
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        cells: Tokens per side of the image, 14 for patches of 16 pixels at 224.
        extra: Tokens that are replaced in addition to ``(1 - lam) * cells ** 2``; published: 14.
        block: Replace the tokens under random rectangles; ``False`` replaces random tokens.

    Raises:
        ValueError: ``cells`` is not positive or ``extra`` is negative; when called, the image has fewer pixels than
            tokens per side.

    Note:
        Where the rectangles leave some tokens to replace, random tokens are added, so that the number is exact; the
        authors' loop may end short of it. Published label weights are :class:`SaliencyShare` with
        ``ClassActivation(teacher=...)`` and ``normalize=False``; the weights of the policy itself are the pixel shares.

    Source: Liu et al., *TokenMix: Rethinking Image Mixing for Data Augmentation in Vision Transformers*, ECCV 2022
    (arXiv:2207.08409).

    Example:
        >>> import torch
        >>> plan = TokenMix(cells=8, extra=4)(torch.rand(2, 3, 32, 32), torch.arange(2)).plan
        >>> (~plan.mask).sum((1, 2, 3))
        tensor([36, 36])
    """

    alpha: float | Ratio = Constant(0.5)
    cells: PositiveInt = 14
    extra: Annotated[int, Within(0)] = 14
    block: bool = True

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        check_pixels(f"TokenMix(cells={self.cells})", self.cells, pairs.size)
        number = self.cells**2
        count = (((1 - pairs.lam) * number).floor() + self.extra).clamp_max(number).long()
        order = pairs.rand(number)
        if self.block:
            order = order - rectangles(pairs.rand(CANDIDATES, 4), count, self.cells).flatten(1).float()
        replaced = order.argsort(1).argsort(1) < count[:, None]
        return MaskPlan(pairs, ~replaced.view(-1, 1, self.cells, self.cells))
