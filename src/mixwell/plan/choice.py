"""Another plan for every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.plan.base import Plan
from mixwell.plan.shares import MaskPlan


class ChoicePlan(Plan):
    """Every sample follows one of several plans over the same pairs.

    Args:
        plans: Two-source plans with the same sources.
        choice: Which plan each sample follows, shape ``(B,)``, int64.
    """

    _geometry = ("plans", "choice")

    def __init__(self, plans: tuple[Plan, ...], choice: Tensor) -> None:
        self.plans, self.choice = plans, choice
        self.partners, self.size = plans[0].partners, plans[0].size
        self._lam, self.weights = self._pick([p.lam for p in plans]), self._pick([p.weights for p in plans])

    @property
    def moves_pixels(self) -> bool:
        """See :meth:`Plan.moves_pixels`."""
        return any(plan.moves_pixels for plan in self.plans)

    def share(self, size: tuple[int, int]) -> Tensor:
        """See :meth:`Plan.share`."""
        return self._pick([plan.share(size) for plan in self.plans])

    def _pick(self, values: list[Tensor]) -> Tensor:
        picked = values[0]
        for k, value in enumerate(values[1:], 1):
            picked = torch.where((self.choice == k).view(-1, *(1,) * (value.dim() - 1)), value, picked)
        return picked

    def _mix(self, images: Tensor) -> Tensor:
        return self._pick([plan._mix(images) for plan in self.plans])

    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        out.copy_(self._pick([plan.apply(images) for plan in self.plans]))

    _mix_large = _mix_batch

    def _source(self, images: Tensor, k: int, nearest: bool = False) -> Tensor:
        return self._pick([plan._source(images, k, nearest) for plan in self.plans])

    def _plan_of(self, row: int) -> Plan:
        return self.plans[int(self.choice[row])]._plan_of(row)


def choose_per_sample(plans: tuple[Plan, ...], choice: Tensor) -> Plan:
    """Combine plans over the same pairs, as a single mask where no plan moves pixels: one pass over the images."""
    most = max(1 + len(plan.partners) for plan in plans)
    if most > 2:
        raise ValueError(
            f"A choice per sample needs policies with two sources, but got one with {most}; choose per batch."
        )
    chosen = ChoicePlan(plans, choice)
    if chosen.moves_pixels:
        return chosen
    pairs = Pairs(chosen.partners[0], chosen.lam, chosen.size)
    mask = MaskPlan(pairs, chosen.share(chosen.size)[:, :1])
    mask.weights = chosen.weights  # a plan may carry the drawn ratio instead of its share of the pixels
    return mask
