"""SUMix: learn the mixing ratio, and the uncertainty of a mixed sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.labels import Released, SemanticShare, Similarity, View
from mixwell.losses import cross_entropy
from mixwell.methods.method import Method
from mixwell.policy import BatchPolicy
from mixwell.taps import Tap, classifier_of, frozen_statistics, pooled


class UncertaintyHead(nn.Module):
    """A second linear head whose normalised softmax says how uncertain the model is of each class.

    Args:
        features: Width D of the classifier's input.
        num_classes: Number of classes N.

    Source: Qin et al., *SUMix*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> UncertaintyHead(16, 10)(torch.rand(4, 16)).norm(dim=1)
        tensor([1., 1., 1., 1.], grad_fn=<LinalgVectorNormBackward0>)
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
    reference_compat: bool = False,
    published: bool | None = None,
) -> SUMixTerms:
    """Compute SUMix's loss from the outputs of the clean and the mixed pass.

    Args:
        mixed: A batch with two sources.
        logits: Of the mixed images, shape ``(B, N)``.
        clean_logits: Of the unmixed images, shape ``(B, N)``; used without gradient.
        uncertainty: Of the mixed images, shape ``(B, N)``.
        clean_uncertainty: Of the unmixed images, shape ``(B, N)``.
        share: How the ratio is learned.
        gamma: Weight of the regulariser.
        form: ``"linear"`` takes ``-(semantic + uncertainty)`` for logits, ``"exp"`` its exponential, as released, which
            lies in (0, 1] and hardly trains anything.
        smoothing: Label smoothing of the main term.
        reference_compat: The released loss: its semantic term scaled by the batch size, ``form="exp"``, and the batch's
            mean weight for every sample.
        published: Use the batch's mean weight for every sample; ``None`` follows ``reference_compat``.

    Returns:
        The parts.

    Raises:
        ValueError: The batch does not have two sources with class indices.

    Source: Qin et al., *SUMix*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> logits, head = torch.randn(4, 10), normalised_uncertainty(torch.randn(4, 10))
        >>> bool(sumix_terms(mixed, logits, logits, head, head).loss.isfinite())
        True
    """
    kappa = None
    if reference_compat:
        share, form = SemanticShare(similarity=Released(zero_shared=True)), "exp"
        kappa = len(logits) / math.sqrt(logits.shape[1])
    weights, semantic = share.terms(mixed, View(logits, clean_logits), kappa)
    learned = mixed.with_weights(weights)
    main = cross_entropy(logits, learned, smoothing, published=reference_compat if published is None else published)
    together = clean_uncertainty.float()[mixed.plan.sources] + uncertainty.float()[:, None]  # (B, 2, N)
    features = FORMS[form](together + semantic)
    each = F.cross_entropy(features.flatten(0, 1), mixed.labels.flatten(), reduction="none").view_as(mixed.labels)
    regulariser = gamma * (mixed.weights * each).sum(1).mean()  # the drawn ratio here, not the learned one
    return SUMixTerms(main + regulariser, regulariser, weights, semantic, together, features)


class SUMix(Method):
    """Train any two-source policy with a learned mixing ratio and an uncertainty regulariser.

    The unmixed images are predicted too; where the mixed image looks more like one of its sources, that source's label gains
    weight. A second head, used in training only, learns how uncertain each image is.

    Args:
        model: The classifier; its last linear layer, or ``get_classifier()``, tells where the uncertainty head reads.
        policy: Any policy with two sources.
        num_classes: Number of classes N.
        gamma: Weight of the regulariser: 0.5 in most of the paper's settings, 1.0 on Tiny-ImageNet; 0 switches it off.
        similarity: See :class:`SemanticShare`.
        kappa: See :class:`SemanticShare`.
        is_norm: Read uncertainty from a head of its own; ``False`` takes the raw logits, as the paper's ImageNet settings.
        form: See :func:`sumix_terms`.
        smoothing: Label smoothing of the main term.
        clean_grad: Let gradients flow through the clean pass, as released; costs a backward pass more.
        clean_ce: Weight of an ordinary loss on the unmixed images; needs ``clean_grad=True``.
        clean_statistics: Let the clean pass move batch-norm statistics, as released.
        reference_compat: The released step as it is: :func:`sumix_terms`, clean pass with gradient and statistics.
        classifier: Name of the module whose input the uncertainty head reads, where it cannot be found.

    Raises:
        ValueError: A setting is out of range, or the classifier is not found.

    Note:
        The released loss scales with the batch size, keeps only the batch's mean weight and hardly trains its second head
        (``docs/sumix.md``); the default repairs all three, and its clean pass has no gradient, which saves a third of
        the step.

    Source: Qin et al., *SUMix: Mixup with Semantic and Uncertain Information*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> from mixwell import CutMix
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> method = SUMix(model, CutMix(alpha=0.2), num_classes=10)
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy,
        *,
        num_classes: int,
        gamma: float = 0.5,
        similarity: str | Similarity = "distance",
        kappa: float = 1.0,
        is_norm: bool = True,
        form: str = "linear",
        smoothing: float = 0.0,
        clean_grad: bool = False,
        clean_ce: float = 0.0,
        clean_statistics: bool = False,
        reference_compat: bool = False,
        classifier: str | None = None,
    ) -> None:
        super().__init__(model)
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, but got {form!r}.")
        if gamma < 0 or clean_ce < 0:
            raise ValueError(f"gamma and clean_ce must not be negative, but got {gamma} and {clean_ce}.")
        if clean_ce and not (clean_grad or reference_compat):
            raise ValueError("clean_ce trains on the unmixed images, which needs clean_grad=True.")
        self.policy, self.gamma, self.form, self.smoothing = policy, gamma, form, smoothing
        self.share = SemanticShare(similarity=similarity, kappa=kappa)
        self.clean_grad, self.clean_ce = clean_grad or reference_compat, clean_ce
        self.clean_statistics = clean_statistics or reference_compat
        self.reference_compat = reference_compat
        self.tap = self.head = None
        if is_norm:
            name, module = classifier_of(model) if classifier is None else (classifier, model.get_submodule(classifier))
            self.tap = Tap(model, name, of="input")
            self.head = UncertaintyHead(_width(module), num_classes)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also returns the regulariser and how far the learned ratio is from the drawn one."""
        mixed = self.policy(images, labels, model=self.model)
        with self._clean_pass():
            clean_logits, clean_uncertainty = self._predict(images)
        logits, uncertainty = self._predict(mixed.images)
        terms = sumix_terms(
            mixed,
            logits,
            clean_logits,
            uncertainty,
            clean_uncertainty,
            share=self.share,
            gamma=self.gamma,
            form=self.form,
            smoothing=self.smoothing,
            reference_compat=self.reference_compat,
        )
        loss = terms.loss
        if self.clean_ce:
            loss = loss + self.clean_ce * F.cross_entropy(clean_logits.float(), labels, label_smoothing=self.smoothing)
        shift = (terms.weights[:, 0] - mixed.weights[:, 0]).abs().mean()
        return {"loss": loss, "output": logits, "regulariser": terms.regulariser.detach(), "ratio_shift": shift}

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, logits if self.head is None or self.tap is None else self.head(self.tap.take())

    def _clean_pass(self) -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(nullcontext() if self.clean_grad else torch.no_grad())
        stack.enter_context(nullcontext() if self.clean_statistics else frozen_statistics(self.model))
        return stack


def _width(module: nn.Module) -> int:
    width = getattr(module, "in_features", None) or getattr(module, "in_channels", None)
    if not isinstance(width, int):
        raise ValueError(f"The classifier must be a linear or convolutional layer, but is {type(module).__name__}; name it.")
    return width
