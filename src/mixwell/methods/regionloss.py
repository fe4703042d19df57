"""SMMix's training step: losses of the mixed regions, and consistency with the unmixed images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.attention import AttentionHook
from mixwell.features.isolation import undisturbed
from mixwell.features.layers import last_map
from mixwell.features.passes import MapHook, logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.gridloss import channels_of_map
from mixwell.methods.method import LossFunction, Method, Output, like_model
from mixwell.normalization import Normalization
from mixwell.policies import SMMix
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import NonNegativeFloat


class RegionLoss(Method):
    """Train on mixed images, on the regions of each source in them, and towards the predictions for the sources.

    One pass over the unmixed images, in eval mode and without gradient, gives the attention by which the policy mixes
    and the predictions of the sources. A second head, used in training only, classifies the average features of the
    region of each source. A consistency loss keeps the prediction for a mixed image close to the
    blend of those for its sources.

    Args:
        model: The classifier, a transformer or any network with a feature map.
        policy: Any policy with two sources; ``None`` takes :class:`SMMix`. A policy that uses saliency gets the
            attention of the model, if it has any, and else asks its own source.
        num_classes: Number of classes N.
        region_weight: Weight of the mean loss of both regions, not negative, a number or a schedule.
        consistency_weight: Weight of the consistency, not negative, a number or a schedule.
        layer: Layer that outputs the features, ``(B, C, h, w)`` or tokens ``(B, T, C)``; ``None`` takes the last one.
        label: How label weights are computed.
        loss: The loss, ``(logits, mixed) -> scalar``, also of the regions.
        normalization: How the images were normalized; None means that they are in [0, 1].

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy is not callable.
        ValueError: A weight is negative, or the model has no feature map; when called, the policy mixes more than two
            sources.

    Note:
        In the authors' code the side of the window is drawn once per batch, and the batch must be even.

    Source: Chen et al., *SMMix: Self-Motivated Image Mixing for Vision Transformers*, ICCV 2023 (arXiv:2212.12977).

    Example:
        >>> from mixwell.models import mini_resnet
        >>> method = RegionLoss(mini_resnet(10), SMMix(cells=4), num_classes=10)
        >>> method(torch.rand(4, 3, 32, 32), torch.arange(4))["loss"].backward()
    """

    two_sources = True

    region_weight: float
    consistency_weight: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int,
        region_weight: NonNegativeFloat | Schedule = 1.0,
        consistency_weight: NonNegativeFloat | Schedule = 1.0,
        layer: str | None = None,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = SMMix() if policy is None else policy
        current: dict[str, Any] = {"region_weight": region_weight, "consistency_weight": consistency_weight}
        super().__init__(model, policy, label, loss, normalization, **current)
        self.hook = MapHook(model, last_map(model, bypassed=True) if layer is None else layer)
        self.head = like_model(nn.Linear(channels_of_map(model, self.hook), num_classes), model)
        try:
            self.attention = AttentionHook(model)
        except ValueError:
            self.attention = None

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; also logs the loss of the regions and the consistency."""
        clean_logits, saliency = self._look(images)
        fields = {"images": images, "labels": labels, "clean_logits": clean_logits, **self.policy_arguments}
        mixed = self.policy.__call__(images, labels, saliency=saliency, **self.policy_arguments)
        if mixed.weights.shape[1] != 2:
            raise ValueError(f"RegionLoss needs a policy with two sources, but got {mixed.weights.shape[1]}.")
        fields.update(masks=masks, boxes=boxes)
        with reading(self.hook), reading(self.on_mixed):
            logits = logits_of(self.model(mixed.images))
        features = self.hook.taken(mixed.images)
        mixed = self.weighted(mixed, logits, fields)

        region_loss = self.loss(*self._regions(features, mixed))
        blended = (mixed.weights[..., None] * clean_logits.float()[mixed.plan.sources]).sum(1).log_softmax(1)
        consistency = F.kl_div(logits.float().log_softmax(1), blended, reduction="batchmean", log_target=True)
        total = self.loss(logits, mixed) + self.region_weight * region_loss + self.consistency_weight * consistency
        return self.step_output(total, logits, mixed, region_loss=region_loss, consistency=consistency)

    @torch.no_grad()
    def _look(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits of the unmixed images, and the attention to each patch if the policy uses saliency."""
        reads = self.attention if getattr(self.policy, "uses_saliency", False) else None
        with undisturbed(self.model), reading(self.on_clean), reading(reads):
            logits = logits_of(self.model(images))
        return logits, None if reads is None else reads.take(images, by_patches=True)

    def _regions(self, features: Tensor, mixed: MixedBatch) -> tuple[Tensor, MixedBatch]:
        """Return the logits of the regions of all sources ``(2 * B, N)``, and their labels as a batch of its own."""
        grid = (features.shape[2], features.shape[3])
        share = F.adaptive_avg_pool2d(mixed.plan.share(mixed.plan.size), grid).to(features.dtype)
        size = share.sum((2, 3))
        pooled = torch.einsum("bkhw,bchw->bkc", share, features) / size.clamp_min(1e-6)[..., None]
        weights = (size > 0).float().flatten()[:, None]  # a source without a region has no loss
        by_region = MixedBatch(mixed.images, mixed.labels.flatten(0, 1)[:, None], weights, mixed.plan)
        return self.head(pooled.flatten(0, 1)), by_region
