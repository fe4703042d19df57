"""AutoMix: train a network that predicts masks together with the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mixwell.batch import Batch
from mixwell.ema import Buffers
from mixwell.features.layers import channels_of
from mixwell.features.observer import Observer
from mixwell.features.passes import reading
from mixwell.labels import Boxes, LabelPolicy, RatioShare
from mixwell.losses import CrossEntropy
from mixwell.methods.groups import check_block_group, split_block, split_decay
from mixwell.methods.method import LossFunction, Method, Output, like_model, mix, unmixed
from mixwell.mixers.heads import Head, Heads, check_clean
from mixwell.mixers.masks import AreaHinge, MaskLoss, adjusted, even_near_pure
from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.predictor import MaskPredictor
from mixwell.mixers.teacher import Momentum, Teacher
from mixwell.normalization import Normalization
from mixwell.plan import MaskPlan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import Fraction, NonNegativeFloat, UpToHalf


class AutoMix(Method):
    """Train a mix block that predicts masks, and the classifier on the images that they mix, in one step.

    A slowly moving average of the classifier, the teacher, reads the clean images; from its features the block predicts
    two masks, for two independent draws of partner and ratio. Images mixed by the first are classified by the teacher,
    and that loss trains the block; images mixed by the second train the classifier only. One backward pass does both.

    Args:
        model: The classifier; it must have a feature map ``(B, C, h, w)`` or tokens ``(B, N, C)``.
        policy: Draws partners and ratios, such as ``MixUp(alpha=2.0, pairing=Derangement())``; where it would place
            pixels is not used. ``None`` takes ``MixUp(alpha=2.0)``.
        num_classes: Number of classes N, to find the last layer; ``None`` is the number that it has.
        block: Settings of the block. ``None`` takes ``PairAttention()``, the published ones of CIFAR;
            ``PairAttention(lam_concat=True)`` are those of ImageNet.
        layer: Layer whose feature map the block reads, a name in ``model.named_modules()``; ``None`` takes the last
            stage but one, or the middle block of a transformer.
        channels: Channels of that map, needed only where they cannot be inferred.
        momentum: EMA momentum of the teacher, in [0, 1], a number or a schedule.
        buffers: Batch-norm statistics of the teacher, see :class:`mixwell.mixers.teacher.Teacher`.
        mask_loss: An additional loss of the block's masks; ``None`` takes ``AreaHinge()``, the published one.
        mask_weight: Its weight, not negative: a number as on CIFAR, or ``Cosine(0.1, 0.0)`` as elsewhere.
        mask_adjust: Probability of scaling the classifier's masks so that their area equals the ratio, in [0, 1].
        margin: Where a ratio is within this distance of 0 or 1, the classifier trains on MixUp, in [0, 1/2].
        block_p: Probability of training the block through the teacher in a step, in [0, 1]; its masks are trained by
            ``mask_loss`` in any case.
        block_loss: Loss of the teacher's predictions, ``(logits, mixed) -> scalar``; ``None`` takes ``loss``.
        block_group: Optimizer settings of the block's parameter group, such as ``{"lr": 0.1, "momentum": 0.0}``.
        head: Which images train the model's own last layer, see :class:`mixwell.mixers.heads.Heads`.
        classifier: Name of the last layer, if it is not found.
        clean_weight: Weight of the loss of unmixed images, not negative; 0 skips that pass and needs ``head="both"``.
        label: How label weights are computed.
        loss: The loss of the classifier, ``(logits, mixed) -> scalar``.
        normalization: How the images were normalized; ``None`` means that they are in [0, 1].

    Raises:
        TypeError: The model is not an ``nn.Module``, the policy is not callable, or a setting has another type.
        ValueError: A setting is out of range, or there is no layer to read; when called: the policy mixes more than two
            sources, or the layer does not return a map.

    Note:
        The published mask loss averages the masks of a batch first, so that half of them may be empty: here each mask
        counts (``mask_loss=mixwell.mixers.published.published("L1")`` is the published form). The released
        ``mask_adjust`` scales towards the block's ratio instead of the classifier's. The released program evaluates the
        teacher, ``method.teacher.model``, which in a short training is still close to its initial weights. Its pass on
        unmixed images stops at the layer, so that with ``buffers="keep"`` batch-norm statistics behind it come from
        mixed images only. The binary cross entropy of SAMix's paper, which released settings do not have, is
        ``block_loss=BinaryCrossEntropy(classes="sum", negative_weight=0.5)`` in our reading.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027).

    Example:
        >>> from mixwell.models import mini_resnet
        >>> method = AutoMix(mini_resnet(10))
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
        >>> method.after_step(progress=0.01)
    """

    needs_after_step = True
    two_sources = True
    default_block: ClassVar[PairAttention] = PairAttention()
    default_mask_loss: ClassVar[MaskLoss] = AreaHinge()

    block_loss: LossFunction
    mask_loss: MaskLoss
    mask_weight: float
    mask_adjust: float
    margin: float
    block_p: float
    clean_weight: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        block: PairAttention | None = None,
        layer: str | None = None,
        channels: int | None = None,
        momentum: Fraction | Schedule = Momentum(),
        buffers: Buffers = "keep",
        mask_loss: MaskLoss | None = None,
        mask_weight: NonNegativeFloat | Schedule = 0.1,
        mask_adjust: Fraction | Schedule = 0.0,
        margin: UpToHalf | Schedule = 0.08,
        block_p: Fraction | Schedule = 1.0,
        block_loss: LossFunction | None = None,
        block_group: Mapping[str, Any] | None = None,
        head: Head = "clean",
        classifier: str | None = None,
        clean_weight: NonNegativeFloat | Schedule = 1.0,
        label: LabelPolicy = RatioShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = MixUp(alpha=2.0) if policy is None else policy
        current = {"mask_weight": mask_weight, "mask_adjust": mask_adjust, "margin": margin, "block_p": block_p}
        current |= {"mask_loss": self.default_mask_loss if mask_loss is None else mask_loss}
        current |= {"block_loss": loss if block_loss is None else block_loss, "clean_weight": clean_weight}
        super().__init__(model, policy, label, loss, normalization, calls="pairs", **current)
        check_clean(clean_weight, head)
        self.block_group = check_block_group(block_group)
        self.heads = Heads(model, head, classifier, num_classes)
        self.teacher = Teacher(model, self.heads, layer=layer, momentum=momentum, buffers=buffers)
        self.teacher_observer = Observer(self.teacher.model, label.needs)
        channels = channels_of(self.teacher.model, self.teacher.layer) if channels is None else channels
        self.block = like_model((self.default_block if block is None else block).build(channels), model)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; also logs all losses and the mean distance of the masks' areas to the ratios."""
        batch = Batch(images, labels, model=self.model, normalization=self.normalization)
        block_pairs, student_pairs = self.policy.pairs(batch), self.policy.pairs(batch)
        terms: dict[str, Tensor] = {}
        fields: dict[str, Any] = {"images": images, "labels": labels, "masks": masks, "boxes": boxes}
        fields["normalization"] = self.normalization
        student_fields, teacher_fields = {**fields, "model": self.model}, {**fields, "model": self.teacher.model}
        if self.observer.needs_clean_pass:
            with reading(self.teacher_observer.on_clean):
                features, teacher_fields["clean_logits"] = self.teacher.features_and_logits(images)
        else:
            features = self.teacher.features(images)

        # The block is trained through the teacher, whose own parameters are frozen.
        partners = features.index_select(0, block_pairs.partner)
        share = self.block(features, partners, block_pairs.lam, block_pairs.size)
        terms["mask_loss"] = self.mask_loss(share, block_pairs.lam)
        if self.block_p == 1 or float(torch.rand(())) < self.block_p:
            mixed = mix(MaskPlan(block_pairs, share), images, labels)
            with reading(self.teacher_observer.on_mixed):
                logits = self.teacher(mixed.images)
            mixed = self.weighted(mixed, logits, teacher_fields, self.teacher_observer)
            terms["block_loss"] = self.block_loss(logits, mixed)

        # The classifier is trained on masks without a graph, and on the unmixed images.
        with torch.no_grad():
            partners = features.index_select(0, student_pairs.partner)
            fixed = self.block(features, partners, student_pairs.lam, student_pairs.size)
            if self.mask_adjust and (self.mask_adjust == 1 or float(torch.rand(())) < self.mask_adjust):
                fixed = adjusted(fixed, student_pairs.lam)
            fixed = even_near_pure(fixed, student_pairs.lam[:, None], self.margin)
            mixed = mix(MaskPlan(student_pairs, fixed), images, labels)
        clean_logits = None
        if self.clean_weight or self.observer.needs_clean_pass:
            with reading(self.on_clean):
                clean_logits = self.heads.clean(self.model, images, grad=bool(self.clean_weight))
            student_fields["clean_logits"] = clean_logits.detach()
        with reading(self.on_mixed):
            logits = self.heads(self.model, mixed.images, "mixed")
        mixed = self.weighted(mixed, logits, student_fields)
        terms["mixed_loss"] = self.loss(logits, mixed)
        if self.clean_weight and clean_logits is not None:
            terms["clean_loss"] = self.loss(clean_logits, unmixed(images, labels))

        loss = terms["mixed_loss"] + self.mask_weight * terms["mask_loss"] + terms.get("block_loss", 0)
        loss = loss + self.clean_weight * terms.get("clean_loss", 0)
        area_error = (share.mean((1, 2, 3)) - block_pairs.lam).abs().mean()
        return self.step_output(loss, logits, mixed, **terms, area_error=area_error)

    def after_step(self, progress: float) -> None:
        """See :meth:`Method.after_step`; the teacher follows the classifier."""
        self.teacher.follow(self.model, self.heads, self.progress)
        super().after_step(progress)

    def mask_predictor(self) -> MaskPredictor:
        """See :meth:`Method.mask_predictor`."""
        return MaskPredictor(self.block, self.teacher.model, self.teacher.hook)

    def param_groups(self, weight_decay: float | None = None) -> list[dict[str, Any]]:
        """See :meth:`Method.param_groups`; groups with ``name="block"`` are those of the block."""
        groups = split_block(super().param_groups(), self.block, self.block_group)
        return split_decay(groups, weight_decay, self.model)
