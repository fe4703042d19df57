"""AdAutoMix: AutoMix of any number of sources, whose block at times works against the classifier."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch, Pairs
from mixwell.losses import cross_entropy
from mixwell.methods.pipeline import MomentumPipeline
from mixwell.methods.twoheads import reported
from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.masks import even_where, near_pure
from mixwell.mixers.predictor import Seer
from mixwell.mixers.teacher import Schedule, at
from mixwell.plan.shares import SharePlan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy


class AdAutoMix(MomentumPipeline):
    """Train a block that shares images out between K sources, in turn with the classifier and against it.

    Every other step the block is rewarded for what the teacher gets wrong, which makes hard images, while a cosine term
    keeps what the teacher says of a mixed image close to what it says of the sources. One clean pass of the teacher
    supplies features and logits.

    Args:
        model: The classifier, from whose map the block reads.
        policy: Who is mixed with whom and how much; ``None`` takes ``MixUp(alpha=1.0)``. For more than two sources it
            is asked several times, and the ratios are scaled to a sum of one.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        sources: Number of sources K, at least 2; 3 on CIFAR, 2 on ImageNet.
        random_sources: Draw the number anew for every step, from 2 to ``sources``.
        block: What kind of block; ``SourceAttention(lam_concat=True, norm="batch")`` is that of ImageNet.
        interval: Work against the classifier once in so many steps; 0 never does.
        beta: Weight of the teacher's loss against the cosine term in those steps, in [0, 1], a number or a schedule.
        cosine_sign: -1 keeps predictions for mixed images close to those for their sources, 1 drives them apart.
        plain: Weight of plain K-way MixUp against clean images, in [0, 1]; only where K is more than 2.
        margin: Ratios this near to 0 or 1 train the student on plain MixUp.
        others: See :class:`AutoMix`.

    Raises:
        TypeError: The model is no module, the policy cannot mix, or a setting is unknown.
        ValueError: A setting is out of range, there is no map to tap or, when called, K is larger than the batch.

    Note:
        The released cosine term has the other sign, against its purpose (``cosine_sign=1``), and the released test of
        the margin holds for nearly every drawing of three sources: here it looks at each sample, and at all of its
        ratios. The anchor is always one of the sources. Label weights follow the wanted ratios, as published.

    Source: Qin et al., *Adversarial AutoMixup*, ICLR 2024 (arXiv:2312.11954).

    Example:
        >>> from mixwell.models import mini_resnet
        >>> method = AdAutoMix(mini_resnet(10), sources=3)
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
        >>> method.after_step(progress=0.01)
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        sources: int = 3,
        random_sources: bool = False,
        block: SourceAttention = SourceAttention(),
        interval: int = 2,
        beta: float | Schedule = 0.3,
        cosine_sign: int = -1,
        plain: float = 0.5,
        margin: float = 0.03,
        **others: Any,
    ) -> None:
        if sources < 2 or interval < 0 or cosine_sign not in (-1, 1):
            raise ValueError(
                f"sources must be at least 2, interval not negative and cosine_sign -1 or 1, but got {sources}, "
                f"{interval} and {cosine_sign}."
            )
        if not 0 <= at(beta, 0.0) <= 1 or not 0 <= plain <= 1:
            raise ValueError(f"beta and plain must lie in [0, 1], but got {beta} and {plain}.")
        self.interval = interval  # read while the pipeline is made
        super().__init__(model, MixUp() if policy is None else policy, block, margin=margin, **others)
        self.sources, self.random_sources, self.plain = sources, random_sources, plain
        self.beta, self.cosine_sign = beta, cosine_sign

    def take_turns(self) -> None:
        """See :meth:`MomentumPipeline.take_turns`: also whether the block works against the classifier."""
        super().take_turns()
        self.against = self.interval > 0 and self.steps % self.interval == 0

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also logs every loss, and how far the masks' areas are from the wanted ones."""
        self.remember()
        several = self._several(len(images))
        shown, lam_shown = self._drawn(images, labels, several)
        learnt, lam = self._drawn(images, labels, several)
        if several > 2:
            lam, learnt = lam_shown, learnt.with_lam(lam_shown[:, 0])
        with self.teaching():
            said = self.ask(images)
            features = self.tap.taken(images)
        shares = self._shares(features, shown, lam_shown)
        with torch.no_grad():
            quiet = even_where(near_pure(lam, self.margin), self._shares(features, learnt, lam), lam)
            mixed = self.named(SharePlan(learnt, quiet), images, labels, lam)
        terms = self.learn(images, labels, mixed)
        if several > 2 and self.plain:
            self._add_plain(terms, images, mixed, learnt, lam)
        terms["area_error"] = (shares.mean((2, 3)) - lam_shown).abs().mean()
        if self.generator_on():
            judged = self.named(SharePlan(shown, shares), images, labels, lam_shown)
            terms |= self._judged(judged, said, lam_shown)
            terms["loss"] = terms["loss"] + terms["block_loss"]
        else:
            terms["loss"] = terms["loss"] + 0 * shares.sum()  # every process has a gradient for every parameter
        return reported(self.safe(terms))

    def seer(self) -> Seer:
        """See :meth:`Method.seer`."""
        return Seer(self.block, self.teacher, self.tap, self.sources)

    def _several(self, rows: int) -> int:
        if self.sources > rows:
            raise ValueError(f"AdAutoMix mixes {self.sources} sources, but the batch has only {rows} images.")
        if not self.random_sources or self.sources == 2:
            return self.sources
        return 2 + int(float(torch.rand(())) * (self.sources - 1))

    def _drawn(self, images: Tensor, labels: Tensor, several: int) -> tuple[Pairs, Tensor]:
        """Draw pairs, or more than pairs, and the wanted share of each source ``(B, K)``."""
        plans = [self.policy.draw(images, labels, model=self.student) for _ in range(1 if several == 2 else several)]
        if len(plans[0].partners) != 1:
            raise ValueError(f"AdAutoMix draws sources two by two, but the policy has {1 + len(plans[0].partners)}.")
        partner = torch.stack([plan.partners[0] for plan in plans[: several - 1]], 1)
        lam = torch.stack([plan.lam for plan in plans], 1)
        lam = torch.cat((lam, 1 - lam), 1) if several == 2 else normalised(lam)
        return Pairs(partner, lam[:, 0], plans[0].size), lam

    def _shares(self, features: Tensor, pairs: Pairs, lam: Tensor) -> Tensor:
        sources = torch.stack([features, *(features.index_select(0, p) for p in pairs.partner.unbind(1))], 1)
        return self.block(sources, lam, pairs.size)

    def _add_plain(
        self, terms: dict[str, Tensor], images: Tensor, mixed: MixedBatch, pairs: Pairs, lam: Tensor
    ) -> None:
        """Let plain K-way MixUp take a part of the clean images' weight."""
        blended = SharePlan(pairs, lam[:, :, None, None]).apply(images)
        logits = self.predict(self.student, self.second, blended, "mixed")
        terms["plain_loss"] = cross_entropy(logits, mixed.with_weights(lam), self.smoothing)
        clean = self.clean_weight * terms["clean_loss"] if self.clean_weight else 0
        terms["loss"] = terms["mixed_loss"] + (1 - self.plain) * clean + self.plain * terms["plain_loss"]

    def _judged(self, mixed: MixedBatch, said: Tensor, lam: Tensor) -> dict[str, Tensor]:
        """Let the teacher classify what the block has mixed, and turn its loss into the block's."""
        with self.teaching(grad=True):
            logits = self.ask(mixed.images)
        loss = cross_entropy(logits, mixed, self.smoothing)
        cosine = source_cosine(logits, said[mixed.plan.sources], lam)
        cost = adversarial(loss, cosine, at(self.beta, self.progress), self.cosine_sign) if self.against else loss
        return {"generator_loss": loss, "cosine": cosine, "block_loss": cost}


def source_cosine(logits: Tensor, clean_logits: Tensor, lam: Tensor) -> Tensor:
    """Compare what is said of mixed images with what is said of their sources.

    Args:
        logits: Of the mixed images, shape ``(B, N)``.
        clean_logits: Of their sources, shape ``(B, K, N)``.
        lam: Wanted shares, shape ``(B, K)``.

    Returns:
        The cosines' mean, weighted by the shares: a scalar.

    Example:
        >>> source_cosine(torch.tensor([[1.0, 0.0]]), torch.eye(2)[None], torch.tensor([[0.3, 0.7]]))
        tensor(0.3000)
    """
    return (lam * F.cosine_similarity(logits.float()[:, None], clean_logits.float(), dim=2)).sum(1).mean()


def adversarial(loss: Tensor, cosine: Tensor, beta: float, sign: int = -1) -> Tensor:
    """Return what the block minimises when it works against the classifier.

    Args:
        loss: The teacher's loss on mixed images.
        cosine: See :func:`source_cosine`.
        beta: Weight of the loss, in [0, 1]; the rest goes to the cosine.
        sign: -1 rewards the cosine, 1 charges it, as released.

    Example:
        >>> adversarial(torch.tensor(2.0), torch.tensor(0.5), beta=0.3)
        tensor(-0.9500)
    """
    return -beta * loss + sign * (1 - beta) * cosine


def normalised(ratios: Tensor) -> Tensor:
    """Scale ratios ``(B, K)`` to a sum of one.

    Example:
        >>> normalised(torch.tensor([[0.2, 0.2, 0.4]]))
        tensor([[0.2500, 0.2500, 0.5000]])
    """
    return ratios / ratios.sum(1, keepdim=True).clamp_min(torch.finfo(ratios.dtype).tiny)
