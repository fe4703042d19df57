"""AlignMix: align the feature maps of two images before they are blended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from mixwell.batch import MixedBatch, Pairs
from mixwell.features.layers import last_map
from mixwell.features.maps import channels_come_last
from mixwell.features.passes import FeatureHook, attached, logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output
from mixwell.normalization import Normalization
from mixwell.ops.sinkhorn import log_transport, mix_aligned, squared_distances
from mixwell.plan import BlendPlan, Plan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy
from mixwell.schedule import Schedule
from mixwell.typecheck import Fraction, PositiveFloat, PositiveInt


class AlignMix(Method):
    """Blend the last feature maps of two images after aligning one with the other by optimal transport.

    Every position of the anchor's map is blended with the weighted average of the partner's positions that the
    transport assigns to it, or the other way round: the result keeps the pose of the one image and takes the texture of
    the other. The remaining batches are mixed by the policy at the input.

    Args:
        model: The classifier.
        policy: Draws partners and ratio, and mixes the images where features are not aligned; None takes
            ``MixUp(alpha=2.0)``. Aligned features are blended by its label weights, which the label policy then takes
            as shares and ratios, wherever the policy would place the pixels.
        num_classes: Ignored; accepted so that all methods share a signature.
        layer: Name of the module whose output is aligned, a map ``(B, C, h, w)`` or tokens ``(B, N, C)``; None takes
            the last feature map, see :func:`mixwell.features.layers.last_map`.
        p: Probability of aligning a batch instead of mixing its images, a number or a schedule.
        eps: Weight of the entropy in the transport.
        iterations: Iterations of the transport.
        tolerance: Stop the iteration early, see :func:`mixwell.ops.sinkhorn.log_transport`; published: 0.1 with
            ``iterations=100``. It waits for the device in every iteration.
        exact: Normalise the weights of every position to a sum of one, whether the transport has converged or not;
            False uses them unchanged, as published.
        scope: Draw the direction once per ``"batch"``, as published, or per ``"sample"``.
        label: See :class:`Mixing`.
        loss: See :class:`Mixing`.
        normalization: See :class:`Mixing`.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy has no ``draw``.
        ValueError: The layer does not exist, its output is not a map, or a setting is out of range.

    Note:
        The published code stops on a rule that couples the samples of a batch, and blends with a plan that may be far
        from converged: the weights of some positions then sum to nearly zero or to two. Here they always sum to one,
        after a fixed number of iterations; ``iterations=100, tolerance=0.1, exact=False`` is the published form. The
        decoder that the paper also trains, and aligning several layers, are not implemented.

    Source: Venkataramanan et al., *AlignMixup: Improving Representations by Interpolating Aligned Features*, CVPR 2022
    (arXiv:2103.15375).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
        >>> method = AlignMix(model, p=1.0)
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    two_sources = True

    p: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        layer: str | None = None,
        p: Fraction | Schedule = 0.5,
        eps: PositiveFloat = 0.1,
        iterations: PositiveInt = 50,
        tolerance: float | None = None,
        exact: bool = True,
        scope: Literal["batch", "sample"] = "batch",
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = MixUp(alpha=2.0) if policy is None else policy
        super().__init__(model, policy, label, loss, normalization, calls="draw", p=p)
        if label.needs & {"attention", "attentions"}:
            raise ValueError(
                f"{label} reads the attention to the pixels of mixed images, but AlignMix mixes features behind the "
                "attention: use another label policy."
            )
        self.hook = FeatureHook(model, last_map(model) if layer is None else layer, of="output")
        self.scope = scope
        self.eps, self.iterations, self.tolerance, self.exact = eps, iterations, tolerance, exact

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`."""
        plan = self.policy.draw(images, labels, **self.policy_arguments)
        with attached(self.hook):
            fields = self.seen(images, labels, masks, boxes)
            if float(torch.rand(())) < self.p:
                coins = torch.rand(len(images) if self.scope == "sample" else 1, device=images.device)
                with self.hook.changed(self.alignment(plan, coins < 0.5)), reading(self.on_mixed):
                    logits = logits_of(self.model(images))
                plan = BlendPlan(Pairs(plan.partners[0], plan.weights[:, 0], plan.size))
            else:
                images = plan.apply(images)
                with reading(self.on_mixed):
                    logits = logits_of(self.model(images))
        mixed = MixedBatch(images, plan.source_labels(labels), plan.weights, plan)
        mixed = self.weighted(mixed, logits, fields)
        return self.step_output(self.loss(logits, mixed), logits, mixed)

    def alignment(self, plan: Plan, backwards: Tensor) -> Alignment:
        """Return the change of features that a plan makes; see :class:`Alignment`."""
        return Alignment(plan, backwards, self.eps, self.iterations, self.tolerance, self.exact)


@dataclass(frozen=True, eq=False)
class Alignment:
    """Aligns and blends feature maps.

    Attributes:
        plan: Sources and label weights of the batch.
        backwards: Whether the anchor is aligned with the partner, shape ``(B,)`` or ``(1,)``, see
            :func:`mixwell.ops.sinkhorn.mix_aligned`.
        eps: See :class:`AlignMix`.
        iterations: See :class:`AlignMix`.
        tolerance: See :class:`AlignMix`.
        exact: See :class:`AlignMix`.

    Example:
        >>> plan = MixUp().draw(torch.rand(2, 3, 8, 8), torch.arange(2))
        >>> Alignment(plan, torch.tensor([True]))(torch.rand(2, 6, 4, 4)).shape
        torch.Size([2, 6, 4, 4])
    """

    plan: Plan
    backwards: Tensor
    eps: float = 0.1
    iterations: int = 50
    tolerance: float | None = None
    exact: bool = True

    def __call__(self, features: Tensor) -> Tensor:
        """Return blended features of the same shape, maps or tokens."""
        if features.dim() not in (3, 4):
            raise ValueError(
                f"AlignMix needs a layer that outputs maps (B, C, h, w) or tokens (B, N, C), but got an output of "
                f"shape {tuple(features.shape)}: name another layer."
            )
        if len(self.plan.partners) != 1:
            raise ValueError(f"AlignMix aligns two sources, but the policy mixes {1 + len(self.plan.partners)}.")
        tokens = features.dim() == 3
        last = tokens or channels_come_last(features, self.plan.size)
        wide = features if last else features.movedim(1, -1)
        points = wide if tokens else wide.flatten(1, 2)
        partner = points.index_select(0, self.plan.partners[0])
        distances = squared_distances(points.detach(), partner.detach())
        log_plan = log_transport(distances, self.eps, self.iterations, self.tolerance)[0]
        mixed = mix_aligned(points, partner, self.plan.weights[:, 0], self.backwards, log_plan, self.exact)
        mixed = mixed.reshape(wide.shape)
        return mixed if last else mixed.movedim(-1, 1)
