"""LUMix: label weights with random noise and a share of the model's own prediction."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.checks import classes_of
from mixwell.labels.base import LabelPolicy, View
from mixwell.ratio import Beta
from mixwell.typecheck import Fraction, PositiveFloat


class LUMixShare(LabelPolicy):
    """Mix the pixel share with a random ratio and with the model's prediction for the two classes (experimental).

    ``w = (1 - random - predicted) * pixels + random * Beta(alpha) + predicted * p_a / (p_a + p_b)``

    Args:
        random: Weight of the random ratio, in [0, 1], a number or a schedule.
        predicted: Weight of the prediction for the mixed image, in [0, 1], a number or a schedule.
        alpha: Parameter of the random ratio's Beta distribution, positive.

    Raises:
        ValueError: A weight is out of range, or both sum to more than one; when called, the batch does not have two
            sources.

    Note:
        The authors have published no code and no values of the weights: both are yours to choose, and no equivalence is
        claimed.

    Source: Sun et al., *LUMix: Improving Mixup by Better Modelling Label Uncertainty*, 2022 (arXiv:2211.15846).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> weights = LUMixShare(random=0.0, predicted=0.0)(mixed, View(logits=torch.zeros(4, 10)))
        >>> bool((weights == mixed.weights).all())
        True
    """

    random: Fraction = 0.1
    predicted: Fraction = 0.1
    alpha: PositiveFloat = 1.0

    two_sources = True

    def __post_init__(self) -> None:
        if self.random + self.predicted > 1:
            raise ValueError(f"random and predicted must sum to at most 1, but got {self.random} and {self.predicted}.")

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        if mixed.weights.shape[1] != 2:
            raise ValueError(f"{self} needs a policy with two sources, but got {mixed.weights.shape[1]}.")
        device = mixed.weights.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            total = mixed.weights.sum(1)
            logits = view.get("logits", self).float()
            drawn = Beta(self.alpha)(len(mixed), device, None)
            own = mixed.weights[:, 0] * (1 - self.random - self.predicted)
            own = own + total * self.random * drawn + self.predicted * _predicted_weight(logits, mixed)
            return torch.stack((own, total - own), 1)


def _predicted_weight(logits: Tensor, mixed: MixedBatch) -> Tensor:
    """Return the anchor's weight by ``p_a / (p_a + p_b)``, or as it is if a label names no class, shape ``(B,)``."""
    total = mixed.weights.sum(1)
    if mixed.labels.dim() == 2:
        labels, known = classes_of(mixed.labels, logits.shape[1])
        return torch.where(known.all(1), total * logits.gather(1, labels).softmax(1)[:, 0], mixed.weights[:, 0])
    score = (logits.log_softmax(1).exp()[:, None] * mixed.labels.float()).sum(2).clamp_min(1e-30).log()
    return total * score.softmax(1)[:, 0]
