"""SUMix's loss, from the outputs of the clean and the mixed pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.hooks import pooled
from mixwell.labels import SemanticShare, View
from mixwell.losses import check_logits, cross_entropy


class UncertaintyHead(nn.Module):
    """A second linear head whose normalised softmax says how uncertain the model is of each class.

    Args:
        features: Width D of the classifier's input.
        num_classes: Number of classes N.

    Source: Qin et al., *SUMix*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> import torch
        >>> UncertaintyHead(16, 10)(torch.rand(4, 16, 2, 2)).shape
        torch.Size([4, 10])
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Map features ``(B, D)``, or a map ``(B, D, h, w)`` that is averaged first, to uncertainties ``(B, N)``."""
        return normalised_uncertainty(self.linear(pooled(features)))


def normalised_uncertainty(raw: Tensor) -> Tensor:
    """Turn raw outputs ``(B, N)`` into uncertainties: softmax, then rows of length one.

    Example:
        >>> import torch
        >>> normalised_uncertainty(torch.zeros(1, 4))
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    return F.normalize(raw.float().softmax(1), dim=1)


class SUMixTerms(NamedTuple):
    """The parts of SUMix's loss.

    Attributes:
        loss: Scalar, everything together.
        regulariser: Scalar, the uncertainty term, ``gamma`` included.
        weights: Learned label weights, shape ``(B, 2)``.
        semantic: Distance to each source class by class, shape ``(B, 2, N)``.
        uncertainty: Of the mixed image together with each source, shape ``(B, 2, N)``.
        features: What the regulariser's cross entropy takes for logits, shape ``(B, 2, N)``.
    """

    loss: Tensor
    regulariser: Tensor
    weights: Tensor
    semantic: Tensor
    uncertainty: Tensor
    features: Tensor


def _linear(penalty: Tensor) -> Tensor:
    return -penalty


def _exponential(penalty: Tensor) -> Tensor:
    return (-penalty).exp()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"linear": _linear, "exp": _exponential}


def sumix_terms(
    mixed: MixedBatch,
    logits: Tensor,
    clean_logits: Tensor,
    uncertainty: Tensor,
    clean_uncertainty: Tensor,
    *,
    share: SemanticShare = SemanticShare(),
    gamma: float = 0.5,
    form: str = "linear",
    smoothing: float = 0.0,
    published: bool = False,
) -> SUMixTerms:
    """Compute SUMix's loss from the outputs of the clean and the mixed pass.

    Args:
        mixed: A batch with two sources.
        logits: Of the mixed images; this and all outputs have shape ``(B, N)``.
        clean_logits: Of the unmixed images; used without gradient.
        uncertainty: Of the mixed images.
        clean_uncertainty: Of the unmixed images.
        share: How the ratio is learned.
        gamma: Weight of the regulariser.
        form: ``"linear"`` takes ``-(semantic + uncertainty)`` for logits, ``"exp"`` its exponential, as released.
        smoothing: Label smoothing of the main term.
        published: See :func:`cross_entropy`. The released loss is this with ``form="exp"`` and
            ``share=SemanticShare(similarity="reference")``.

    Raises:
        TypeError: The logits are not a tensor.
        ValueError: The batch does not have two sources, the outputs differ in shape, or the form is unknown.

    Source: Qin et al., *SUMix*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> import torch, mixwell
        >>> mixed = mixwell.CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> logits, head = torch.randn(4, 10), normalised_uncertainty(torch.randn(4, 10))
        >>> bool(sumix_terms(mixed, logits, logits, head, head).loss.isfinite())
        True
    """
    _check_outputs(mixed, logits, clean_logits, uncertainty, clean_uncertainty)
    weights, semantic = share.terms(mixed, View(logits, clean_logits))
    main = cross_entropy(logits, mixed.with_weights(weights), smoothing, published=published)
    together = clean_uncertainty.float()[mixed.plan.sources] + uncertainty.float()[:, None]  # (B, 2, N)
    features = form_of(form)(together + semantic)
    each = F.cross_entropy(features.flatten(0, 1), target_of(mixed.labels.flatten(0, 1)), reduction="none")
    # Weighted by the drawn ratio, not by the learned one.
    regulariser = gamma * (mixed.weights * each.view_as(mixed.weights)).sum(1).mean()
    return SUMixTerms(main + regulariser, regulariser, weights, semantic, together, features)


def _check_outputs(mixed: MixedBatch, logits: Tensor, *others: Tensor) -> None:
    check_logits(logits, mixed)
    shapes = {tuple(output.shape) for output in (logits, *others)}
    if len(shapes) > 1:
        raise ValueError(
            f"logits and uncertainties must have one shape (B, N), but got {sorted(shapes)}: check num_classes."
        )


def form_of(name: str) -> Callable[[Tensor], Tensor]:
    """Return the form of the regulariser's logits that has this name."""
    if name not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, but got {name!r}.")
    return FORMS[name]


def target_of(labels: Tensor) -> Tensor:
    """Return labels as torch's cross entropy takes them: class indices, or probabilities in the logits' type."""
    return labels.float() if labels.is_floating_point() else labels
