"""AdAutoMix: AutoMix for any number of sources, with a mix block that also works against the classifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import Batch, Pairs
from mixwell.ema import Buffers
from mixwell.features.layers import channels_of
from mixwell.features.observer import Observer
from mixwell.features.passes import reading
from mixwell.labels import Boxes, LabelPolicy, RatioShare
from mixwell.losses import CrossEntropy
from mixwell.methods.groups import check_block_group, split_block, split_decay
from mixwell.methods.method import LossFunction, Method, Output, like_model, mix, unmixed
from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.heads import Head, Heads, check_clean
from mixwell.mixers.masks import even_near_pure
from mixwell.mixers.predictor import MaskPredictor
from mixwell.mixers.teacher import Momentum, Teacher
from mixwell.normalization import Normalization
from mixwell.plan import SharePlan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import Fraction, NonNegativeFloat, UpToHalf, Within


class AdAutoMix(Method):
    """Train a mix block that shares images between K sources, with the classifier and, in some steps, against it.

    In every other step the block is rewarded for the teacher's errors, which produces hard images, while a cosine term
    keeps the teacher's predictions for a mixed image close to those for its sources. One pass of the teacher over the
    unmixed images provides features and logits. For teacher and classifier see :class:`AutoMix`.

    Args:
        model: The classifier; it must have a feature map ``(B, C, h, w)`` or tokens ``(B, N, C)``.
        policy: Draws partners and ratios; ``None`` takes ``MixUp(alpha=1.0)``. For more than two sources it draws
            several times, and the ratios are scaled to a sum of one.
        num_classes: Number of classes N, to find the last layer; ``None`` is the number that it has.
        sources: Number of sources K, at least 2; 3 on CIFAR, 2 on ImageNet.
        random_sources: Draw the number again in every step, from 2 to ``sources``.
        block: Settings of the block; ``SourceAttention(lam_concat=True, norm="batch")`` are those of ImageNet.
        layer: See :class:`AutoMix`.
        channels: See :class:`AutoMix`.
        momentum: See :class:`AutoMix`.
        buffers: See :class:`AutoMix`.
        interval: The block works against the classifier in every ``interval``-th step; 0 means never.
        beta: Weight of the teacher's loss against the cosine term in those steps, in [0, 1].
        cosine_sign: -1 keeps predictions for mixed images close to those for their sources, 1 separates them.
        plain: Weight of K-source MixUp against unmixed images, in [0, 1]; only for more than two sources.
        margin: Where a ratio is within this distance of 0 or 1, the classifier trains on MixUp, in [0, 1/2].
        block_p: Probability of training the block in a step, in [0, 1].
        block_group: See :class:`AutoMix`.
        head: See :class:`AutoMix`.
        classifier: See :class:`AutoMix`.
        clean_weight: See :class:`AutoMix`.
        label: How label weights are computed; ``SemanticShare`` and ``LUMixShare`` need ``sources=2``.
        loss: The loss of classifier and teacher, ``(logits, mixed) -> scalar``.
        normalization: How the images were normalized; ``None`` means that they are in [0, 1].

    Raises:
        TypeError: The model is not an ``nn.Module``, the policy is not callable, or a setting has another type.
        ValueError: A setting is out of range, or there is no layer to read; when called: K is larger than the batch, or
            the policy mixes more than two sources itself.

    Note:
        The released cosine term has the other sign, against its purpose (``cosine_sign=1``), and the released check of
        the margin is true for nearly all draws of three sources: here it compares all ratios of each sample. The anchor
        is always one of the sources.

    Source: Qin et al., *Adversarial AutoMixup*, ICLR 2024 (arXiv:2312.11954).

    Example:
        >>> from mixwell.models import mini_resnet
        >>> method = AdAutoMix(mini_resnet(10), sources=3)
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
        >>> method.after_step(progress=0.01)
    """

    needs_after_step = True
    two_sources = True

    beta: float
    plain: float
    margin: float
    block_p: float
    clean_weight: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        sources: Annotated[int, Within(2)] = 3,
        random_sources: bool = False,
        block: SourceAttention = SourceAttention(),
        layer: str | None = None,
        channels: int | None = None,
        momentum: Fraction | Schedule = Momentum(),
        buffers: Buffers = "keep",
        interval: Annotated[int, Within(0)] = 2,
        beta: Fraction | Schedule = 0.3,
        cosine_sign: Literal[-1, 1] = -1,
        plain: Fraction | Schedule = 0.5,
        margin: UpToHalf | Schedule = 0.03,
        block_p: Fraction | Schedule = 1.0,
        block_group: Mapping[str, Any] | None = None,
        head: Head = "clean",
        classifier: str | None = None,
        clean_weight: NonNegativeFloat | Schedule = 1.0,
        label: LabelPolicy = RatioShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = MixUp() if policy is None else policy
        current = {"beta": beta, "plain": plain, "margin": margin, "block_p": block_p, "clean_weight": clean_weight}
        super().__init__(model, policy, label, loss, normalization, calls="pairs", **current)
        if sources > 2 and label.two_sources:
            raise ValueError(f"{label} needs two sources: use sources=2 instead of {sources}, or another label.")
        check_clean(clean_weight, head)
        self.block_group = check_block_group(block_group)
        self.sources, self.random_sources, self.cosine_sign = sources, random_sources, cosine_sign
        self.interval, self.steps = interval, 0
        self.heads = Heads(model, head, classifier, num_classes)
        self.teacher = Teacher(model, self.heads, layer=layer, momentum=momentum, buffers=buffers)
        self.teacher_observer = Observer(self.teacher.model, label.needs)
        channels = channels_of(self.teacher.model, self.teacher.layer) if channels is None else channels
        self.block = like_model(block.build(channels), model)
        self._take_sides()

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; also logs all losses and the mean distance of the masks' areas to the ratios."""
        count = self._count(len(images))
        batch = Batch(images, labels, model=self.model, normalization=self.normalization)
        block_pairs, block_lam = self._draw(batch, count)
        pairs, lam = self._draw(batch, count)
        if count > 2:  # as published, one set of ratios for block and classifier
            pairs, lam = pairs.with_lam(block_lam[:, 0]), block_lam
        terms: dict[str, Tensor] = {}
        fields: dict[str, Any] = {"images": images, "labels": labels, "masks": masks, "boxes": boxes}
        fields["normalization"] = self.normalization
        student_fields, teacher_fields = {**fields, "model": self.model}, {**fields, "model": self.teacher.model}
        with reading(self.teacher_observer.on_clean):
            features, teacher_clean = self.teacher.features_and_logits(images)
        teacher_fields["clean_logits"] = teacher_clean

        # The block is trained through the teacher, whose own parameters are frozen.
        shares = self.block.shares(features, block_pairs.partner, block_lam, batch.size)
        if self.block_p == 1 or float(torch.rand(())) < self.block_p:
            mixed = mix(SharePlan(block_pairs, shares, block_lam), images, labels)
            with reading(self.teacher_observer.on_mixed):
                logits = self.teacher(mixed.images)
            teacher_loss = self.loss(logits, self.weighted(mixed, logits, teacher_fields, self.teacher_observer))
            cosine = source_cosine(logits, teacher_clean[mixed.plan.sources], block_lam)
            terms.update(teacher_loss=teacher_loss, cosine=cosine, block_loss=teacher_loss)
            if self.against:
                terms["block_loss"] = adversarial(teacher_loss, cosine, self.beta, self.cosine_sign)
        else:
            terms["block_loss"] = 0 * shares.sum()  # with DistributedDataParallel every parameter needs a gradient

        # The classifier is trained on masks without a graph, on unmixed images and, for K > 2, on plain mixtures.
        with torch.no_grad():
            fixed = self.block.shares(features, pairs.partner, lam, batch.size)
            fixed = even_near_pure(fixed, lam, self.margin)
            mixed = mix(SharePlan(pairs, fixed, lam), images, labels)
        clean_logits = None
        if self.clean_weight or self.observer.needs_clean_pass:
            with reading(self.on_clean):
                clean_logits = self.heads.clean(self.model, images, grad=bool(self.clean_weight))
            student_fields["clean_logits"] = clean_logits.detach()
        with reading(self.on_mixed):
            logits = self.heads(self.model, mixed.images, "mixed")
        mixed = self.weighted(mixed, logits, student_fields)
        terms["mixed_loss"] = self.loss(logits, mixed)
        plain = self.plain if count > 2 else 0.0
        if plain:
            blended = mix(SharePlan(pairs, lam[:, :, None, None], lam), images, labels)
            terms["plain_loss"] = self.loss(self.heads(self.model, blended.images, "mixed"), blended)
        if self.clean_weight and clean_logits is not None:
            terms["clean_loss"] = self.loss(clean_logits, unmixed(images, labels))

        loss = terms["mixed_loss"] + plain * terms.get("plain_loss", 0) + terms["block_loss"]
        loss = loss + (1 - plain) * self.clean_weight * terms.get("clean_loss", 0)
        area_error = (shares.mean((2, 3)) - block_lam).abs().mean()
        return self.step_output(loss, logits, mixed, **terms, area_error=area_error)

    def after_step(self, progress: float) -> None:
        """See :meth:`Method.after_step`; the teacher follows the classifier."""
        self.teacher.follow(self.model, self.heads, self.progress)
        self.steps += 1
        self._take_sides()
        super().after_step(progress)

    def mask_predictor(self) -> MaskPredictor:
        """See :meth:`Method.mask_predictor`."""
        return MaskPredictor(self.block, self.teacher.model, self.teacher.hook, self.sources)

    def param_groups(self, weight_decay: float | None = None) -> list[dict[str, Any]]:
        """See :meth:`Method.param_groups`; groups with ``name="block"`` are those of the block."""
        groups = split_block(super().param_groups(), self.block, self.block_group)
        return split_decay(groups, weight_decay, self.model)

    def get_extra_state(self) -> Tensor:
        """Return the progress and the number of steps, which decides when the block works against the classifier."""
        return torch.tensor([self.progress, self.steps], dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the progress and the number of steps."""
        super().set_extra_state(state[0])
        self.steps = int(state[1])
        self._take_sides()

    def _take_sides(self) -> None:
        # Kept as a flag: a compiled step that reads the number of steps would be compiled again in each of them.
        self.against = self.interval > 0 and self.steps % self.interval == 0

    def _count(self, rows: int) -> int:
        if self.sources > rows:
            raise ValueError(f"AdAutoMix mixes {self.sources} sources, but the batch has only {rows} images.")
        if not self.random_sources or self.sources == 2:
            return self.sources
        return 2 + int(float(torch.rand(())) * (self.sources - 1))

    def _draw(self, batch: Batch, count: int) -> tuple[Pairs, Tensor]:
        """Draw the partners ``(B, K - 1)``, and the ratio of each source ``(B, K)``."""
        partners, ratios, rows = [], [], batch.images.shape[0]
        for _ in range(1 if count == 2 else count):
            pairs = self.policy.pairs(batch)
            partners.append(pairs.partner)
            ratios.append(pairs.lam.expand(rows))
        lam = torch.stack(ratios, 1)
        tiny = torch.finfo(lam.dtype).tiny
        lam = torch.cat((lam, 1 - lam), 1) if count == 2 else lam / lam.sum(1, keepdim=True).clamp_min(tiny)
        return Pairs(torch.stack(partners[: count - 1], 1), lam[:, 0], batch.size), lam


def source_cosine(logits: Tensor, clean_logits: Tensor, lam: Tensor) -> Tensor:
    """Return the cosine similarity of the predictions for mixed images to those for their sources.

    Args:
        logits: Logits of the mixed images, shape ``(B, N)``.
        clean_logits: Logits of their sources, shape ``(B, K, N)``.
        lam: Mixing ratios, shape ``(B, K)``.

    Returns:
        The mean over the batch of the cosines weighted by the ratios, a scalar.

    Example:
        >>> source_cosine(torch.tensor([[1.0, 0.0]]), torch.eye(2)[None], torch.tensor([[0.3, 0.7]]))
        tensor(0.3000)
    """
    return (lam * F.cosine_similarity(logits.float()[:, None], clean_logits.float(), dim=2)).sum(1).mean()


def adversarial(loss: Tensor, cosine: Tensor, beta: float, sign: int = -1) -> Tensor:
    """Return the loss of the block in a step against the classifier.

    Args:
        loss: The teacher's loss on mixed images.
        cosine: See :func:`source_cosine`.
        beta: Weight of the loss, in [0, 1]; the cosine has the rest.
        sign: Sign of the cosine: -1 increases it, 1 decreases it, as released.

    Example:
        >>> adversarial(torch.tensor(2.0), torch.tensor(0.5), beta=0.3)
        tensor(-0.9500)
    """
    return -beta * loss + sign * (1 - beta) * cosine
