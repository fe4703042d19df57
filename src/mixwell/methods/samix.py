"""SAMix: AutoMix with another mix block, trained with the classifier or beforehand."""

from __future__ import annotations

from torch import Tensor, nn

from mixwell.features.passes import reading
from mixwell.labels import Boxes, LabelPolicy, RatioShare
from mixwell.losses import CrossEntropy
from mixwell.methods.automix import AutoMix
from mixwell.methods.method import LossFunction, Method, Output, unmixed
from mixwell.mixers.heads import Head, Heads, check_clean
from mixwell.mixers.masks import AreaHinge, SumOf, VarianceBonus
from mixwell.mixers.mixblock import PairAttention
from mixwell.normalization import Normalization
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import NonNegativeFloat


class SAMix(AutoMix):
    """AutoMix whose block attends to both images, scales its features by the ratio, and is rewarded for mask variance.

    The step is AutoMix's; two parts have other defaults. ``block=None`` takes SAMix's block of ImageNet with
    ``dropout=0.0``: on CIFAR the paper's has ``k=0.25`` besides, on CUB and Aircraft ``k=1.0``, and on ImageNet
    ``dropout=0.1``. ``mask_loss=None`` takes ``SumOf((AreaHinge(), VarianceBonus()))``. Arguments and errors are those
    of :class:`AutoMix`.

    Note:
        The released reward for variance has no bound; here it ends at a variance of 0.1
        (``mask_loss=mixwell.mixers.published.published("L1+Variance")`` is the released form).

    Source: Li et al., *Boosting Discriminative Visual Representation Learning with Scenario-Agnostic Mixup*, 2021
    (arXiv:2111.15454).

    Example:
        >>> import torch
        >>> from mixwell.models import mini_resnet
        >>> method = SAMix(mini_resnet(10))
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
    """

    default_block = PairAttention(lam_multiply=1.0, pair=True, neck=True, upsampling="bilinear")
    default_mask_loss = SumOf((AreaHinge(), VarianceBonus()))


class SAMixPretrained(Method):
    """Train a classifier on unmixed images and on the images that a trained block mixes (SAMix^P).

    Block and encoder are frozen, so that the teacher's passes are saved.

    Args:
        model: The classifier.
        policy: The block, as a :class:`LearnedMask`; any other policy that draws a ratio for each source can be used.
        num_classes: Number of classes N, to find the last layer; ``None`` is the number that it has.
        head: Which images train the model's own last layer, see :class:`mixwell.mixers.heads.Heads`.
        classifier: Name of the last layer, if it is not found.
        clean_weight: Weight of the loss of unmixed images, not negative; 0 skips that pass and needs ``head="both"``.
        label: How label weights are computed.
        loss: The loss, ``(logits, mixed) -> scalar``.
        normalization: How the images were normalized; ``None`` means that they are in [0, 1].

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy is not callable.
        ValueError: A setting is unknown or out of range.

    Source: See :class:`SAMix`.

    Example:
        >>> import torch
        >>> from mixwell import CutMix
        >>> from mixwell.models import mini_resnet
        >>> method = SAMixPretrained(mini_resnet(10), CutMix())  # CutMix() in place of LearnedMask("block.safetensors")
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
    """

    clean_weight: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy,
        *,
        num_classes: int | None = None,
        head: Head = "clean",
        classifier: str | None = None,
        clean_weight: NonNegativeFloat | Schedule = 1.0,
        label: LabelPolicy = RatioShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__(model, policy, label, loss, normalization, clean_weight=clean_weight)
        check_clean(clean_weight, head)
        self.heads = Heads(model, head, classifier, num_classes)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; also logs both losses."""
        mixed = self.policy.__call__(images, labels, **self.policy_arguments)
        fields = {"images": images, "labels": labels, "masks": masks, "boxes": boxes, **self.policy_arguments}
        clean_logits = None
        if self.clean_weight or self.observer.needs_clean_pass:
            with reading(self.on_clean):
                clean_logits = self.heads.clean(self.model, images, grad=bool(self.clean_weight))
            fields["clean_logits"] = clean_logits.detach()
        with reading(self.on_mixed):
            logits = self.heads(self.model, mixed.images, "mixed")
        mixed = self.weighted(mixed, logits, fields)
        mixed_loss = self.loss(logits, mixed)
        if not self.clean_weight or clean_logits is None:
            return self.step_output(mixed_loss, logits, mixed)
        clean_loss = self.loss(clean_logits, unmixed(images, labels))
        loss = mixed_loss + self.clean_weight * clean_loss
        return self.step_output(loss, logits, mixed, mixed_loss=mixed_loss, clean_loss=clean_loss)
