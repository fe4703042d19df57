"""SUMix: learned label weights, and an uncertainty regulariser."""

from __future__ import annotations

from torch import Tensor, nn

from mixwell.features.hooks import FeatureHook
from mixwell.features.isolation import clean_pass
from mixwell.features.layers import inputs_of, outputs_of
from mixwell.features.outputs import logits_of
from mixwell.labels import LabelPolicy, SemanticShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, like_model, step_output
from mixwell.methods.sumixloss import UncertaintyHead, sumix_terms
from mixwell.normalization import Normalization
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule, check_range


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
            about the weights; ``SemanticShare(kappa=Step({0.0: 0.0, 0.1: 1.0}))`` waits for a tenth of the training.
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
        of the step. ``reference_compat=True`` is the released step: ``SemanticShare(similarity="reference")``, the
        mean weight of the batch for every sample, exponential regulariser, clean pass with gradient and update of
        batch-norm statistics.

        The paper has single-label data. With multi-label data the target of the regulariser is the row of labels
        divided by its sum.

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
        gamma: float | Schedule = 0.5,
        is_norm: bool = True,
        label: LabelPolicy = SemanticShare(),
        loss: LossFunction = CrossEntropy(),
        reference_compat: bool = False,
        classifier: str | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(model, normalization)
        check_range("gamma", gamma)
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, but got {num_classes}.")
        if reference_compat and label != SemanticShare():
            raise ValueError("reference_compat sets label itself: leave it out.")
        self.set_parts(policy, SemanticShare(similarity="reference") if reference_compat else label, loss)
        self.gamma, self.published = gamma, reference_compat
        self.hook = self.head = None
        if is_norm and gamma:
            self.hook = FeatureHook(model, classifier, num_classes=num_classes)
            self.head = like_model(UncertaintyHead(_width(self.hook, num_classes), num_classes), model)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also logs the regulariser, and how far learned ratios are from drawn ones.

        ``saturated`` is the share of the batch whose learned ratio is within 0.01 of 0 or 1 while the drawn one is not.
        """
        policy, label, loss = self.parts_now()
        mixed = policy(images, labels, **self.policy_arguments)
        with clean_pass(self.model, grad=self.published, statistics=self.published):
            clean_logits, clean_uncertainty = self._predict(images)
        logits, uncertainty = self._predict(mixed.images)
        terms = sumix_terms(
            mixed,
            logits,
            clean_logits,
            uncertainty,
            clean_uncertainty,
            label=label,
            loss=loss,
            gamma=self.now(self.gamma),
            form="exp" if self.published else "linear",
            published=self.published,
        )
        drawn, learned = mixed.weights[:, 0], terms.weights[:, 0]
        return step_output(
            terms.loss,
            logits,
            mixed.with_weights(terms.weights),
            regulariser=terms.regulariser,
            ratio_shift=(learned - drawn).abs().mean(),
            saturated=(_saturated(learned) & ~_saturated(drawn)).float().mean(),
        )

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and uncertainties, both of shape ``(B, N)``."""
        if self.head is None or self.hook is None:
            logits = logits_of(self.model(images))
            return logits, logits
        with self.hook:
            logits = logits_of(self.model(images))
        return logits, self.head(self.hook.take(logits))


def _saturated(weight: Tensor) -> Tensor:
    return (weight < 0.01) | (weight > 0.99)


def _width(hook: FeatureHook, num_classes: int) -> int:
    """Return the number of features that go into the classifier."""
    if outputs_of(hook.module) not in (None, num_classes):
        raise ValueError(
            f"num_classes is {num_classes}, but the classifier {hook.name!r} has {outputs_of(hook.module)} outputs: "
            'check num_classes, or name the layer that computes the logits, as in classifier="head.fc".'
        )
    return inputs_of(hook.module, hook.name)
