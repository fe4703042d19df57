"""SUMix: learn the mixing ratio, and the uncertainty of a mixed sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.labels import SemanticShare, Similarity, View
from mixwell.losses import check_logits, check_smoothing, cross_entropy
from mixwell.methods.method import Method, check_policy, clean_pass
from mixwell.policy import BatchPolicy
from mixwell.taps import Tap, pooled


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
    features = _form(form)(together + semantic)
    each = F.cross_entropy(features.flatten(0, 1), _target(mixed.labels.flatten(0, 1)), reduction="none")
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


def _form(name: str) -> Callable[[Tensor], Tensor]:
    if name not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, but got {name!r}.")
    return FORMS[name]


def _target(labels: Tensor) -> Tensor:
    """Return labels as torch's cross entropy takes them: class indices, or probabilities in the logits' type."""
    return labels.float() if labels.is_floating_point() else labels


class SUMix(Method):
    """Train any two-source policy with a learned mixing ratio and an uncertainty regulariser.

    The unmixed images are predicted too; where the mixed image looks more like one of its sources, that source's label
    gains weight. A second head, used in training only, learns how uncertain each image is.

    Args:
        model: The classifier; the second head reads what goes into ``get_classifier()``, or into its last linear layer.
        policy: Any policy with two sources.
        num_classes: Number of classes N.
        gamma: Weight of the regulariser: 0.5 in most of the paper's settings, 1.0 on Tiny-ImageNet; 0 switches it off,
            and there is no second head.
        similarity: See :class:`SemanticShare`.
        kappa: See :class:`SemanticShare`.
        is_norm: Read uncertainty from a head of its own; ``False`` takes the raw logits, as the released ImageNet
            settings do.
        form: See :func:`sumix_terms`.
        smoothing: Label smoothing of the main term.
        clean_grad: Let gradients flow through the clean pass, as released; costs a backward pass more.
        clean_ce: Weight of an ordinary loss on the unmixed images; needs ``clean_grad=True``.
        warmup: Share of the training, in [0, 1], before which labels keep the drawn ratio: predictions of an untrained
            model say nothing about it.
        clean_statistics: Let the clean pass move batch-norm statistics, as released.
        reference_compat: The released step as it is: ``"reference"`` similarity, ``form="exp"``, the batch's mean
            weight for every sample, clean pass with gradient and statistics.
        classifier: Name of the layer whose input the uncertainty head reads, where it cannot be found.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.
        ValueError: A setting is out of range or contradicts another, or the classifier is not found.

    Note:
        The released loss scales with the batch size, keeps only the batch's mean weight and hardly trains its second
        head (``docs/sumix.md``); the default repairs all three, and its clean pass has no gradient, which saves a third
        of the step.

    Source: Qin et al., *SUMix: Mixup with Semantic and Uncertain Information*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> import torch
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
        warmup: float = 0.0,
        reference_compat: bool = False,
        classifier: str | None = None,
    ) -> None:
        super().__init__(model)
        check_policy(policy)
        check_smoothing(smoothing)
        _form(form)
        if not (0 <= gamma < math.inf and 0 <= clean_ce < math.inf):
            raise ValueError(f"gamma and clean_ce must be finite numbers from 0 on, but got {gamma} and {clean_ce}.")
        if reference_compat:
            if (similarity, kappa, form) != ("distance", 1.0, "linear"):
                raise ValueError("reference_compat sets similarity, kappa and form itself: leave them out.")
            similarity, form, clean_grad, clean_statistics = "reference", "exp", True, True
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must be a share of the training, in [0, 1], but got {warmup}.")
        if clean_ce and not clean_grad:
            raise ValueError("clean_ce trains on the unmixed images, which needs clean_grad=True.")
        self.policy, self.gamma, self.form, self.smoothing = policy, gamma, form, smoothing
        learned = SemanticShare(similarity=similarity, kappa=kappa)
        self.warmup, self.stages = warmup, (replace(learned, kappa=0.0), learned)
        self.share = self.stages[not warmup]
        self.clean_grad, self.clean_ce, self.clean_statistics = clean_grad, clean_ce, clean_statistics
        self.published = reference_compat
        self.tap = self.head = None
        if is_norm and gamma:
            self.tap = Tap(model, classifier, of="input")
            self.head = UncertaintyHead(_width(self.tap.name, model.get_submodule(self.tap.name)), num_classes)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also logs how far learned ratios are from drawn ones, and those near 0 or 1."""
        mixed = self.policy(images, labels, model=self.model)
        with clean_pass(self.model, grad=self.clean_grad, statistics=self.clean_statistics):
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
            published=self.published,
        )
        loss = terms.loss
        if self.clean_ce:
            clean_loss = F.cross_entropy(clean_logits.float(), _target(labels), label_smoothing=self.smoothing)
            loss = loss + self.clean_ce * clean_loss
        own = terms.weights[:, 0]
        return {
            "loss": loss,
            "output": logits,
            "regulariser": terms.regulariser.detach(),
            "ratio_shift": (own - mixed.weights[:, 0]).abs().mean(),
            "saturated": ((own < 0.01) | (own > 0.99)).float().mean(),
        }

    def follow(self, progress: float) -> None:
        """See :meth:`Method.follow`."""
        super().follow(progress)
        self.share = self.stages[progress >= self.warmup]

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, logits if self.head is None or self.tap is None else self.head(self.tap.take())


def _width(name: str, module: nn.Module) -> int:
    width = getattr(module, "in_features", None) or getattr(module, "in_channels", None)
    if not isinstance(width, int):
        raise ValueError(
            f"The classifier must be a linear or convolutional layer, but {name!r} is a {type(module).__name__}: give "
            'the name of the layer that makes the logits, as in classifier="head.fc".'
        )
    return width
