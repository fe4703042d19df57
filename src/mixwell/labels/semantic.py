"""SUMix's label weights, from what the model predicts for a mixed image and for its sources."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.checks import classes_of
from mixwell.labels.base import LabelPolicy, View, plan_of
from mixwell.typecheck import NonNegativeFloat
from mixwell.value import Value, set_field


class Similarity(Value, ABC):
    """Measures how far the prediction for a mixed image is from those for its two sources.

    All inputs are float32 and carry no gradient. ``largest_kappa`` is the strength above which its feedback makes
    label weights saturate at 0 or 1.
    """

    largest_kappa = math.inf

    @abstractmethod
    def __call__(
        self, clean: Tensor, mixed: Tensor, labels: Tensor, sources: Tensor, kappa: float
    ) -> tuple[Tensor, Tensor]:
        """Compare probabilities.

        Args:
            clean: Of the unmixed images, shape ``(B, N)``.
            mixed: Of the mixed images, shape ``(B, N)``.
            labels: Label of each source, class indices ``(B, 2)`` or dense ``(B, 2, N)``.
            sources: Rows of the sources, shape ``(B, 2)``.
            kappa: Strength.

        Returns:
            Distance from each source, shape ``(B, 2)``, and the same per class, ``(B, 2, N)``.
        """


class Distance(Similarity):
    """The Euclidean distance between the probabilities: the closer source gains weight, as published.

    Example:
        >>> p, labels, sources = torch.eye(2), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [1, 0]])
        >>> Distance()(p, p, labels, sources, 1.0)[0]
        tensor([[0.0000, 1.4142],
                [0.0000, 1.4142]])
    """

    largest_kappa = 1.4

    def __call__(
        self, clean: Tensor, mixed: Tensor, labels: Tensor, sources: Tensor, kappa: float
    ) -> tuple[Tensor, Tensor]:
        difference = kappa * (mixed[:, None] - clean[sources]).abs()  # (B, 2, N)
        return difference.norm(dim=2), difference


class Released(Similarity):
    """The formula of SUMix's released code, per class ``kappa * sqrt(N) * unit(softmax(sign * (mixed - clean)))``.

    Args:
        sign: ``1`` as released: weight moves towards the class that the model does *not* predict. ``-1`` is
            :class:`Agreement`.
        reference: Keep two mistakes of the released code: its scale is the batch size B instead of ``sqrt(N)``, and it
            takes the other source's class out of the clean prediction even where both sources share that class.

    Raises:
        ValueError: The sign is neither 1 nor -1, or labels are dense.

    Example:
        >>> p, labels, sources = torch.eye(2), torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [1, 0]])
        >>> Released()(p, p, labels, sources, 1.0)[0].shape
        torch.Size([2, 2])
    """

    sign: float = 1.0
    reference: bool = False

    def __post_init__(self) -> None:
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, but got {self.sign}.")
        set_field(self, "largest_kappa", 1.0 if self.sign < 0 else math.inf)

    def __call__(
        self, clean: Tensor, mixed: Tensor, labels: Tensor, sources: Tensor, kappa: float
    ) -> tuple[Tensor, Tensor]:
        if labels.dim() != 2:
            raise ValueError(f"{self} needs class indices, but the labels are dense {tuple(labels.shape)}.")
        labels, known = classes_of(labels, mixed.shape[1])
        other = labels.flip(1)[..., None]
        keep = torch.zeros_like(other, dtype=torch.bool) if self.reference else other == labels[..., None]
        keep = keep | ~known.flip(1)[..., None]
        seen = clean[sources]  # (B, 2, N)
        seen = seen.scatter(2, other, seen.gather(2, other) * keep)
        away = (self.sign * (mixed[:, None] - seen)).softmax(2)
        scale = len(mixed) if self.reference else math.sqrt(mixed.shape[1])
        terms = kappa * scale * F.normalize(away, dim=2)
        # Without the class of both sources the weights stay as they are.
        return terms.gather(2, labels[..., None])[..., 0] * known.all(1, keepdim=True), terms


class Agreement(Released):
    """:class:`Released` with the opposite sign: the class that the model predicts gains weight.

    Keep ``kappa`` at most 1.

    Example:
        >>> Agreement().sign
        -1.0
    """

    sign: float = -1.0


SIMILARITIES: dict[str, Similarity] = {
    "distance": Distance(),
    "released": Released(),
    "agreement": Agreement(),
    "reference": Released(reference=True),
}


class SemanticShare(LabelPolicy):
    """SUMix's learned ratio: weights follow how close the prediction is to that of each source.

    ``logit(lam_hat) = logit(lam) + d_b - d_a``, where ``d`` is the distance of the prediction for the mixed image from
    that for a source. A weight of 0 stays 0, and a row keeps its sum. The result does not depend on the batch size, nor
    with ``"distance"`` on the number of classes.

    Args:
        similarity: ``"distance"``, ``"released"``, ``"agreement"``, ``"reference"`` or a :class:`Similarity`.
        kappa: Strength. The default has the smallest label error on birds with bounding boxes (``docs/sumix.md``).
            Feedback is positive for ``"distance"`` and ``"agreement"``: label weights saturate at 0 or 1 above about
            1.4 and 1.1.

    Raises:
        ValueError: The similarity is unknown, ``kappa`` is negative, the batch does not have two sources, or clean
            logits are missing.

    Note:
        The released code scales by the batch size instead of ``kappa * sqrt(N)`` and moves weight towards the class
        that the model does not predict; ``similarity="reference", kappa=1.0`` reproduces it.

    Source: Qin et al., *SUMix: Mixup with Semantic and Uncertain Information*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> same = torch.zeros(4, 10)
        >>> bool(SemanticShare()(mixed, View(same, clean_logits=same)).allclose(mixed.weights, atol=1e-5))
        True
    """

    similarity: Literal["distance", "released", "agreement", "reference"] | Similarity = "distance"
    kappa: NonNegativeFloat = 0.5

    needs = frozenset({"clean_logits"})
    two_sources = True
    _similarity: ClassVar[Similarity]  # the object that the name means; set when the settings are checked

    def __post_init__(self) -> None:
        similarity = SIMILARITIES[self.similarity] if isinstance(self.similarity, str) else self.similarity
        set_field(self, "_similarity", similarity)
        if self.kappa > similarity.largest_kappa:
            warnings.warn(
                f"kappa={self.kappa} makes label weights saturate at 0 or 1: keep it at "
                f"most {similarity.largest_kappa} for {similarity}.",
                stacklevel=4,
            )

    def __call__(self, mixed: MixedBatch, view: View) -> Tensor:
        return self.terms(mixed, view)[0]

    def terms(self, mixed: MixedBatch, view: View) -> tuple[Tensor, Tensor]:
        """Return the weights ``(B, 2)``, and the distances per class ``(B, 2, N)`` for the regulariser."""
        if mixed.weights.shape[1] != 2:
            raise ValueError(
                f"SUMix compares an anchor with one partner, but these images have {mixed.weights.shape[1]} sources: "
                "use a two-source policy."
            )
        plan: Any = mixed.plan
        if plan is None:
            plan = plan_of(mixed, self)
        if view.clean_logits is None or view.logits is None:
            raise ValueError(
                "SemanticShare compares with the predictions for the unmixed images: pass "
                "View(logits, clean_logits=...)."
            )
        with torch.no_grad(), torch.autocast(view.logits.device.type, enabled=False):
            clean, seen = view.clean_logits.float().softmax(1), view.logits.float().softmax(1)
            away, by_class = self._similarity(clean, seen, mixed.labels, plan.sources, self.kappa)
            # The logarithm of weight 0 is minus infinity: a source that is not in the image gets no label weight.
            share, total = (mixed.weights.clamp_min(0).log() - away).softmax(1), mixed.weights.sum(1, keepdim=True)
            # A row without any weight, all minus infinity, would be NaN.
            return torch.where(total > 0, share * total, 0.0), by_class
