"""AutoMix: learn where to mix, and from what is mixed, in one step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixwell.batch import Pairs
from mixwell.losses import binary_cross_entropy, cross_entropy
from mixwell.methods.pipeline import MomentumPipeline
from mixwell.methods.twoheads import reported
from mixwell.mixers.masklosses import AreaHinge, MaskLoss
from mixwell.mixers.masks import adjusted, even_where, near_pure
from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.teacher import Schedule, at
from mixwell.plan import MaskPlan, Plan
from mixwell.policy import BatchPolicy

GENERATOR_LOSSES = ("ce", "bce")


class AutoMix(MomentumPipeline):
    """Train a block that predicts masks, and the classifier on what they mix, end to end.

    A slowly moving average of the classifier, the teacher, looks at the clean images; from its features the block
    predicts two masks, for two independent drawings of partner and ratio. Images mixed by the first are classified by
    the teacher, and that loss trains the block, through the teacher; images mixed by the second train the classifier
    and nothing else. One backward pass does both.

    Args:
        model: The classifier, from whose map the block reads.
        policy: Who is mixed with whom and how much, such as ``MixUp(alpha=2.0, pairing=Derangement())``; ``None`` takes
            ``MixUp(alpha=2.0)``. Where its pixels would go is not asked.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        block: What kind of block; the default is that of CIFAR, ``PairAttention(lam_concat=True)`` that of ImageNet.
        mask_loss: What masks cost besides.
        mask_weight: Weight of that, a number as on CIFAR, or ``Cosine(0.1, 0.0)`` as elsewhere.
        mask_adjust: Probability of scaling the student's masks to the wanted area.
        generator_loss: ``"ce"``, or ``"bce"``, where classes that are in neither source count ``eta``.
        eta: See there.
        margin: Ratios this near to 0 or 1 train the student on plain MixUp.
        others: Settings of :class:`~mixwell.methods.pipeline.MomentumPipeline`: ``layer``, ``label``, ``momentum``,
            ``buffers``, ``ship``, ``generator_every``, ``switch_off``, ``teacher_dropout``, ``block_group``,
            ``channels``; and of :class:`~mixwell.methods.twoheads.TwoHeads`: ``head``, ``clean_weight``, ``smoothing``,
            ``classifier``.

    Raises:
        TypeError: The model is no module, the policy cannot mix, or a setting is unknown.
        ValueError: A setting is out of range, there is no map to tap, or the policy mixes more than two sources.

    Note:
        Published masks pay for the area of the whole batch together, with which half of them may be empty: here each
        pays for itself (``mask_loss=published("L1")`` restores it). The released ``mask_adjust`` scales towards the
        block's ratio instead of the student's, and the released program ships the teacher (``ship="teacher"``), which
        in a short training is still near its start. The teacher's pass over clean images stops at the tapped layer, so
        with ``buffers="keep"`` statistics behind it see mixed images only.

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027).

    Example:
        >>> from mixwell.models import mini_resnet
        >>> method = AutoMix(mini_resnet(10))
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
        >>> method.after_step(progress=0.01)
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        block: PairAttention = PairAttention(),
        mask_loss: MaskLoss = AreaHinge(),
        mask_weight: float | Schedule = 0.1,
        mask_adjust: float = 0.0,
        generator_loss: str = "ce",
        eta: float = 0.5,
        margin: float = 0.08,
        **others: Any,
    ) -> None:
        if generator_loss not in GENERATOR_LOSSES or not 0 <= mask_adjust <= 1 or eta < 0:
            raise ValueError(
                f"generator_loss must be ce or bce, mask_adjust in [0, 1] and eta not negative, but got "
                f"{generator_loss!r}, {mask_adjust} and {eta}."
            )
        super().__init__(model, policy, block, margin=margin, **others)
        self.mask_loss, self.mask_weight, self.mask_adjust = mask_loss, mask_weight, mask_adjust
        self.generator_loss, self.eta = generator_loss, eta

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also logs every loss, and how far the masks' areas are from the wanted ones."""
        self.remember()
        shown, learnt = self._pairs(images, labels), self._pairs(images, labels)
        with self.teaching():
            features = self.tap.map(self.teacher, images)
        share = self._share(features, shown)
        with torch.no_grad():
            quiet = self._trimmed(self._share(features, learnt), learnt.lam)
            mixed = self.named(MaskPlan(learnt, quiet), images, labels, both(learnt.lam))
        terms = self.learn(images, labels, mixed)
        terms["area_loss"] = self.mask_loss(share, shown.lam)
        terms["area_error"] = (share.mean((1, 2, 3)) - shown.lam).abs().mean()
        terms["loss"] = terms["loss"] + at(self.mask_weight, self.progress) * terms["area_loss"]
        if self.generator_on():
            terms["generator_loss"] = self._judged(MaskPlan(shown, share), images, labels, shown.lam)
            terms["loss"] = terms["loss"] + terms["generator_loss"]
        return reported(self.safe(terms))

    def _pairs(self, images: Tensor, labels: Tensor) -> Pairs:
        plan = self.policy.draw(images, labels, model=self.student)
        if len(plan.partners) != 1:
            raise ValueError(
                f"AutoMix mixes two sources, but the policy has {1 + len(plan.partners)}: use MixUp(alpha=2.0), say, "
                "or AdAutoMix."
            )
        return Pairs(plan.partners[0], plan.lam, plan.size)

    def _share(self, features: Tensor, pairs: Pairs) -> Tensor:
        return self.block(features, features.index_select(0, pairs.partner), pairs.lam, pairs.size)

    def _trimmed(self, share: Tensor, lam: Tensor) -> Tensor:
        """Adjust the student's masks, and make them plain MixUp where one image is wanted nearly alone."""
        if self.mask_adjust and (self.mask_adjust == 1 or float(torch.rand(())) < self.mask_adjust):
            share = adjusted(share, lam)
        return even_where(near_pure(lam[:, None], self.margin), share, lam[:, None])

    def _judged(self, plan: Plan, images: Tensor, labels: Tensor, lam: Tensor) -> Tensor:
        """Let the teacher classify what the block has mixed."""
        mixed = self.named(plan, images, labels, both(lam))
        with self.teaching(grad=True):
            logits = self.ask(mixed.images)
        if self.generator_loss == "bce":
            return binary_cross_entropy(logits, mixed, self.smoothing, classes="sum", negative_weight=self.eta)
        return cross_entropy(logits, mixed, self.smoothing)


def both(lam: Tensor) -> Tensor:
    """Return the ratios of anchor and partner, shape ``(B, 2)``.

    Example:
        >>> both(torch.tensor([0.25]))
        tensor([[0.2500, 0.7500]])
    """
    return torch.stack((lam, 1 - lam), 1)
