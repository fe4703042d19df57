"""Forms of the released code of AutoMix and SAMix that differ from the defaults here, for comparisons with it."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from mixwell.mixers.masks import AreaHinge, MaskLoss, Sparsity, SumOf, VarianceBonus
from mixwell.mixers.mixblock import PairAttention, ease
from mixwell.mixers.teacher import Momentum
from mixwell.typecheck import PositiveFloat, Within


def published(mode: str, margin: float = 0.1) -> MaskLoss:
    """Return the mask loss of a ``mode`` of the released code, which treats the batch as one mask.

    Args:
        mode: ``"L1"``, ``"L1+Variance"``, ``"L2+Variance"`` or ``"Sparsity"``.
        margin: See :class:`AreaHinge` and :class:`Sparsity`.

    Raises:
        ValueError: The mode is unknown.

    Example:
        >>> published("L1")
        AreaHinge(scope='batch')
    """
    variance = VarianceBonus(scope="batch", target=None)
    modes: dict[str, MaskLoss] = {
        "L1": AreaHinge(scope="batch", margin=margin),
        "L1+Variance": SumOf((AreaHinge(scope="batch", margin=margin), variance)),
        "L2+Variance": SumOf((AreaHinge(scope="batch", margin=margin, power=2), variance)),
        "Sparsity": Sparsity(scope="batch", margin=margin),
    }
    if mode not in modes:
        raise ValueError(f"mode must be one of {', '.join(modes)}, but got {mode!r}.")
    return modes[mode]


class ReleasedMomentum(Momentum):
    """:class:`Momentum` with the options of the released code that no released configuration uses.

    Args:
        until: Share of the training after which the momentum is constant, in [warm, 1].
        restart: Share of the training after each of which the momentum is 0 for one step, so that the classifier is
            copied; ``None`` does so in the first step only. During warm-up it is never 0.
        linear: Increase the momentum linearly from ``base`` to ``end`` during warm-up; afterwards it falls back.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> ReleasedMomentum(warm=0.5, linear=True)(0.25), ReleasedMomentum(warm=0.0)(0.0)
        (0.9994995, 0.0)
    """

    until: Annotated[float, Within(0, 1, above=True)] = 1.0
    restart: PositiveFloat | None = None
    linear: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warm > self.until:
            raise ValueError(f"Momentum needs warm <= until, but got {self.warm} and {self.until}.")

    def range(self) -> tuple[float, float]:
        """See :meth:`Schedule.range`."""
        return 0.0, self.end

    def __call__(self, progress: float) -> float:
        if progress < self.warm and self.linear:
            return self.end - (self.end - self.base) * (self.warm - progress) / self.warm
        progress = min(progress, self.until)
        rounds = 0.5 if self.restart is None else progress / self.restart
        if progress >= self.warm and (progress == 0 or (rounds > 0.5 and abs(rounds - round(rounds)) < 1e-9)):
            return 0.0
        return super().__call__(progress if progress < self.warm else progress / self.until)


class ReleasedPairAttention(PairAttention):
    """:class:`PairAttention` with the options of the released code that no released configuration uses.

    Args:
        lam_concat_value: Give the ratio to the value in a channel of its own, but not to query and key.
        residual: ``False`` multiplies features by the ratio itself instead of by one plus the ratio.

    Raises:
        ValueError: A setting is out of range, or both forms of giving the ratio to the value are chosen.

    Example:
        >>> ReleasedPairAttention(lam_concat_value=True).build(8).value.in_channels
        9
    """

    lam_concat_value: bool = False
    residual: bool = True

    def __post_init__(self) -> None:
        if self.lam_concat and self.lam_concat_value:
            raise ValueError("lam_concat already gives the ratio to the value: leave lam_concat_value out.")

    @property
    def lam_in_value(self) -> bool:
        """See :class:`PairAttention`."""
        return self.lam_concat or self.lam_concat_value

    def factor(self, lam: Tensor) -> Tensor:
        """See :meth:`PairAttention.factor`."""
        return super().factor(lam) if self.residual else ease(lam, self.k)
