"""SUMix's loss, computed from the outputs of the clean and the mixed pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.hooks import pooled
from mixwell.labels import LabelPolicy, SemanticShare, View
from mixwell.losses import CrossEntropy, check_logits


class UncertaintyHead(nn.Module):
    """A linear head whose normalised softmax estimates how uncertain the model is of each class.

    Args:
        features: Width D of the classifier's input.
        num_classes: Number of classes N.

    Source: Qin et al., *SUMix*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> UncertaintyHead(16, 10)(torch.rand(4, 16, 2, 2)).shape
        torch.Size([4, 10])
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, D)``, or maps ``(B, D, h, w)``, which are averaged first, to uncertainties ``(B, N)``."""
        return normalised_uncertainty(self.linear(pooled(features)))


def normalised_uncertainty(raw: Tensor) -> Tensor:
    """Turn raw outputs ``(B, N)`` into uncertainties: softmax, then rows of length one.

    Example:
        >>> normalised_uncertainty(torch.zeros(1, 4))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    return F.normalize(raw.float().softmax(1), dim=1)


class SUMixTerms(NamedTuple):
    """The parts of SUMix's loss.

    Attributes:
        loss: Scalar, the sum of the main loss and the regulariser.
        regulariser: Scalar, the uncertainty term, ``gamma`` included.
        weights: Learned label weights, shape ``(B, 2)``.
        semantic: Distance to each source, class by class, shape ``(B, 2, N)``.
        uncertainty: Sum of the uncertainties of the mixed image and of each source, shape ``(B, 2, N)``.
        features: Logits of the regulariser's cross entropy, shape ``(B, 2, N)``.
    """

    loss: Tensor
    regulariser: Tensor
    weights: Tensor
    semantic: Tensor
    uncertainty: Tensor
    features: Tensor


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"linear": torch.neg, "exp": lambda penalty: (-penalty).exp()}


def sumix_terms(
    mixed: MixedBatch,
    logits: Tensor,
    clean_logits: Tensor,
    uncertainty: Tensor,
    clean_uncertainty: Tensor,
    *,
    label: LabelPolicy = SemanticShare(),
    loss: Callable[[Tensor, MixedBatch], Tensor] = CrossEntropy(),
    gamma: float = 0.5,
    form: str = "linear",
    published: bool = False,
) -> SUMixTerms:
    """Compute SUMix's loss from the outputs of the clean and the mixed pass.

    Args:
        mixed: A batch with two sources.
        logits: Logits of the mixed images; this and all outputs have shape ``(B, N)``.
        clean_logits: Logits of the unmixed images; used without gradient.
        uncertainty: Of the mixed images.
        clean_uncertainty: Of the unmixed images.
        label: Label policy. The regulariser takes its distances from a :class:`SemanticShare`: this, or the default.
        loss: The main loss, ``(logits, mixed) -> scalar``.
        gamma: Weight of the regulariser.
        form: ``"linear"`` takes ``-(semantic + uncertainty)`` as logits, ``"exp"`` its exponential, as released.
        published: Replace every sample's weights by the batch's mean in the main loss, as OpenMixup's heads do. The
            released loss is this with ``form="exp"`` and ``label=SemanticShare(similarity="reference")``.

    Raises:
        ValueError: The batch does not have two sources, the outputs differ in shape, or the form is unknown.

    Example:
        >>> from mixwell import CutMix
        >>> mixed, logits = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4)), torch.zeros(4, 10)
        >>> sumix_terms(mixed, logits, logits, logits, logits, gamma=0.0).loss
        tensor(2.3026)
    """
    _check(form, mixed, (logits, clean_logits, uncertainty, clean_uncertainty))
    view = View(logits.detach(), clean_logits.detach())
    if isinstance(label, SemanticShare):
        weights, semantic = label.terms(mixed, view)
    else:
        weights, semantic = label(mixed, view), SemanticShare().terms(mixed, view)[1]
    shown = weights.mean(0, keepdim=True).expand_as(weights) if published else weights
    main = loss(logits, mixed.with_weights(shown))
    together = clean_uncertainty.float()[mixed.plan.sources] + uncertainty.float()[:, None]  # (B, 2, N)
    features = FORMS[form](together + semantic)
    each = F.cross_entropy(features.flatten(0, 1), _target(mixed.labels.flatten(0, 1)), reduction="none")
    regulariser = gamma * (mixed.weights * each.view_as(mixed.weights)).sum(1).mean()  # by the drawn ratio
    return SUMixTerms(main + regulariser, regulariser, weights, semantic, together, features)


def _check(form: str, mixed: MixedBatch, outputs: tuple[Tensor, ...]) -> None:
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, but got {form!r}.")
    check_logits(outputs[0], mixed)
    shapes = [tuple(output.shape) for output in outputs]
    if len(set(shapes)) > 1:
        raise ValueError(f"logits and uncertainties must have one shape (B, N), but got {shapes}: check num_classes.")


def _target(labels: Tensor) -> Tensor:
    """Return class indices as they are, and dense labels ``(B, N)`` as probabilities."""
    if not labels.is_floating_point():
        return labels
    return labels.float() / labels.float().sum(1, keepdim=True).clamp_min(1e-12)
