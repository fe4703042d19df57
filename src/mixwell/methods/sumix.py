"""SUMix: learned label weights, and an uncertainty regulariser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.layers import inputs_of, outputs_of
from mixwell.features.maps import pooled
from mixwell.features.passes import FeatureHook, clean_pass, logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, SemanticShare, View
from mixwell.losses.softmax import CrossEntropy, check_shape, reduced, without
from mixwell.methods.method import LossFunction, Method, Output, like_model
from mixwell.normalization import Normalization
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import NonNegativeFloat, PositiveInt


class SUMix(Method):
    """Train with label weights learned from the model's predictions, and an uncertainty regulariser.

    The model also predicts the unmixed images. Where a mixed image looks more like one of its sources, that source's
    label gains weight. A second head, used in training only, estimates how uncertain the prediction of each image is.

    Args:
        model: The classifier; the second head reads the input of the layer that computes the logits.
        policy: Any policy with two sources.
        num_classes: Number of classes N.
        gamma: Weight of the regulariser, a number or a schedule: 0.5 in most of the paper's settings, 1.0 on
            Tiny-ImageNet. 0 switches it off, and there is no second head.
        is_norm: Estimate the uncertainty by a second head. False takes the logits themselves, as the released ImageNet
            settings do.
        label: How label weights are computed, see :class:`SemanticShare`. Predictions of an untrained model say nothing
            about the weights; ``SemanticShare(kappa=Step({0.0: 0.0, 0.1: 0.5}))`` waits for a tenth of the training.
        loss: The loss, ``(logits, mixed) -> scalar``.
        reference_compat: Compute the released step, see Note.
        classifier: Name of the layer that computes the logits, if it is not found.
        normalization: See :class:`Mixing`.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy is not callable.
        ValueError: A setting is out of range or contradicts another, or the classifier is not found.

    Note:
        The released loss scales with the batch size, keeps only the batch's mean weight and hardly trains its second
        head (``docs/sumix.md``); the default repairs all three, and its clean pass has no gradient, which saves a third
        of the step. ``reference_compat=True`` is the released step: ``SemanticShare(similarity="reference",
        kappa=1.0)``, the mean weight of the batch for every sample, exponential regulariser, clean pass with gradient
        and update of batch-norm statistics.

        The paper has single-label data. With multi-label data the target of the regulariser is the row of labels
        divided by its sum.

    Source: Qin et al., *SUMix: Mixup with Semantic and Uncertain Information*, ECCV 2024 (arXiv:2407.07805).

    Example:
        >>> from mixwell import CutMix
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
        >>> method = SUMix(model, CutMix(alpha=0.2), num_classes=10)
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    two_sources = True

    gamma: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy,
        *,
        num_classes: PositiveInt,
        gamma: NonNegativeFloat | Schedule = 0.5,
        is_norm: bool = True,
        label: LabelPolicy = SemanticShare(),
        loss: LossFunction = CrossEntropy(),
        reference_compat: bool = False,
        classifier: str | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        if reference_compat and label != SemanticShare():
            raise ValueError("reference_compat sets label itself: leave it out.")
        label = SemanticShare(similarity="reference", kappa=1.0) if reference_compat else label
        super().__init__(model, policy, label, loss, normalization, gamma=gamma)
        self.published = reference_compat
        self.hook = self.head = None
        if is_norm and gamma:
            self.hook = FeatureHook(model, classifier, num_classes=num_classes)
            self.head = like_model(UncertaintyHead(_width(self.hook, num_classes), num_classes), model)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; also logs the regulariser, and how far learned ratios are from drawn ones.

        ``saturated`` is the share of the batch whose learned ratio is within 0.01 of 0 or 1 while the drawn one is not.
        """
        mixed = self.policy.__call__(images, labels, **self.policy_arguments)
        with clean_pass(self.model, grad=self.published, statistics=self.published), reading(self.on_clean):
            clean_logits, clean_uncertainty = self._predict(images)
        with reading(self.on_mixed):
            logits, uncertainty = self._predict(mixed.images)
        fields = {"images": images, "labels": labels, "masks": masks, "boxes": boxes, **self.policy_arguments}
        if self.label.needs - {"clean_logits"}:
            fields = {**fields, **self.observer.clean_fields(images), **self.observer.mixed_fields(mixed.images)}
        terms = sumix_terms(
            mixed,
            logits,
            clean_logits,
            uncertainty,
            clean_uncertainty,
            label=self.label,
            loss=self.loss,
            gamma=self.gamma,
            form="exp" if self.published else "linear",
            published=self.published,
            **fields,
        )
        drawn, learned = mixed.weights[:, 0], terms.weights[:, 0]
        return self.step_output(
            terms.loss,
            logits,
            mixed.with_weights(terms.weights),
            regulariser=terms.regulariser,
            ratio_shift=(learned - drawn).abs().mean(),
            saturated=((learned - 0.5).abs().gt(0.49) & (drawn - 0.5).abs().le(0.49)).float().mean(),
        )

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and uncertainties, both of shape ``(B, N)``."""
        with reading(self.hook):
            output = self.model(images)
        logits = output if isinstance(output, Tensor) else logits_of(output)
        return logits, logits if self.head is None or self.hook is None else self.head(self.hook.take(logits))


def _width(hook: FeatureHook, num_classes: int) -> int:
    """Return the number of features that go into the classifier."""
    if outputs_of(hook.module) not in (None, num_classes):
        raise ValueError(
            f"num_classes is {num_classes}, but the classifier {hook.name!r} has {outputs_of(hook.module)} outputs: "
            'check num_classes, or name the layer that computes the logits, as in classifier="head.fc".'
        )
    return inputs_of(hook.module, hook.name)


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
        return normalised_uncertainty(self.linear(features if features.ndim == 2 else pooled(features)))


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


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"linear": torch.neg, "exp": lambda penalty: torch.exp(-penalty)}


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
    **fields: Any,
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
            released loss is this with ``form="exp"`` and ``label=SemanticShare(similarity="reference", kappa=1.0)``.
        fields: Further fields of :class:`mixwell.labels.View` that the label policy reads.

    Raises:
        ValueError: The batch does not have two sources, the outputs differ in shape, or the form is unknown.

    Example:
        >>> from mixwell import CutMix
        >>> mixed, logits = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4)), torch.zeros(4, 10)
        >>> sumix_terms(mixed, logits, logits, logits, logits, gamma=0.0).loss
        tensor(2.3026)
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, but got {form!r}.")
    if not logits.shape == clean_logits.shape == uncertainty.shape == clean_uncertainty.shape:
        shapes = [tuple(output.shape) for output in (logits, clean_logits, uncertainty, clean_uncertainty)]
        raise ValueError(f"logits and uncertainties must have one shape (B, N), but got {shapes}: check num_classes.")
    view = View(logits.detach(), clean_logits.detach(), **fields)
    check_shape(logits, mixed)
    counted, left = without(mixed, getattr(loss, "ignore_index", None))
    similar = label if isinstance(label, SemanticShare) else SemanticShare()
    weights, semantic = similar.terms(mixed, view)
    weights = weights if similar is label else label.__call__(mixed, view)
    used = weights.mean(0, keepdim=True).expand_as(weights) if published else weights
    main = loss(logits, mixed.with_weights(used))
    together = clean_uncertainty.float()[mixed.plan.sources] + uncertainty.float()[:, None]  # (B, 2, N)
    features = FORMS[form](together + semantic)
    target = counted.labels.flatten(0, 1)  # of every source; dense labels are divided by their sum
    if target.is_floating_point():
        target = target.float() / target.float().sum(1, keepdim=True).clamp_min(1e-12)
    each = F.cross_entropy(features.flatten(0, 1), target, reduction="none")
    regulariser = gamma * reduced(-counted.weights * each.view_as(mixed.weights), "mean", left)  # by the drawn ratio
    return SUMixTerms(main + regulariser, regulariser, weights, semantic, together, features)
