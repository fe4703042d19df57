"""SUMix: learn the mixing ratio, and the uncertainty of a mixed sample."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.hooks import Tap
from mixwell.labels import SemanticShare, Similarity, View
from mixwell.losses import check_smoothing
from mixwell.methods.method import Method, check_policy, clean_pass
from mixwell.methods.sumixloss import UncertaintyHead, form_of, sumix_terms, target_of
from mixwell.policy import BatchPolicy


class _Waiting(SemanticShare):
    """Keeps the drawn weights; the regulariser gets its distances all the same."""

    def terms(self, mixed: MixedBatch, view: View) -> tuple[Tensor, Tensor]:
        return mixed.weights, super().terms(mixed, view)[1]


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
            model say nothing about it. The regulariser is there from the start.
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
        form_of(form)
        if not (0 <= gamma < math.inf and 0 <= clean_ce < math.inf):
            raise ValueError(f"gamma and clean_ce must be finite numbers from 0 on, but got {gamma} and {clean_ce}.")
        if reference_compat:
            if (similarity, kappa, form) != ("distance", 1.0, "linear"):
                raise ValueError("reference_compat sets similarity, kappa and form itself: leave them out.")
            similarity, form, clean_grad, clean_statistics = "reference", "exp", True, True
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, but got {num_classes}.")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup must be a share of the training, in [0, 1], but got {warmup}.")
        if clean_ce and not clean_grad:
            raise ValueError("clean_ce trains on the unmixed images, which needs clean_grad=True.")
        self.policy, self.gamma, self.form, self.smoothing = policy, gamma, form, smoothing
        learned = SemanticShare(similarity=similarity, kappa=kappa)
        waiting = _Waiting(similarity=similarity, kappa=kappa) if warmup else learned
        self.warmup, self.stages = warmup, (waiting, learned)
        self.share = self.stages[warmup == 0]
        self.clean_grad, self.clean_ce, self.clean_statistics = clean_grad, clean_ce, clean_statistics
        self.published = reference_compat
        self.tap = self.head = None
        if is_norm and gamma:
            self.tap = Tap(model, classifier, of="input")
            self.head = UncertaintyHead(_width(self.tap.name, model.get_submodule(self.tap.name)), num_classes)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also logs how far learned ratios are from drawn ones, and how many ran away.

        ``saturated`` is the share of the batch whose learned ratio lies within 0.01 of 0 or 1 while the drawn one did
        not.
        """
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
            clean_loss = F.cross_entropy(clean_logits.float(), target_of(labels), label_smoothing=self.smoothing)
            loss = loss + self.clean_ce * clean_loss
        drawn, learned = mixed.weights[:, 0], terms.weights[:, 0]
        return {
            "loss": loss,
            "output": logits,
            "regulariser": terms.regulariser.detach(),
            "ratio_shift": (learned - drawn).abs().mean(),
            "saturated": (_saturated(learned) & ~_saturated(drawn)).float().mean(),
        }

    def follow(self, progress: float) -> None:
        """See :meth:`Method.follow`."""
        super().follow(progress)
        self.share = self.stages[progress >= self.warmup]

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model(images)
        return logits, logits if self.head is None or self.tap is None else self.head(self.tap.take())


def _saturated(weight: Tensor) -> Tensor:
    return (weight < 0.01) | (weight > 0.99)


def _width(name: str, module: nn.Module) -> int:
    width = getattr(module, "in_features", None) or getattr(module, "in_channels", None)
    if not isinstance(width, int):
        raise ValueError(
            f"The classifier must be a linear or convolutional layer, but {name!r} is a {type(module).__name__}: give "
            'the name of the layer that makes the logits, as in classifier="head.fc".'
        )
    return width
