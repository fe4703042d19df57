"""AlignMix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch
from mixwell.features.layers import last_map
from mixwell.features.mixing import Gate, channels_come_last
from mixwell.labels import LabelPolicy, PixelShare
from mixwell.losses import cross_entropy
from mixwell.methods.mixing import Loss, Mixing
from mixwell.ops.sinkhorn import log_transport, mix_aligned, squared_distances
from mixwell.plan import Plan
from mixwell.policies import MixUp
from mixwell.policy import BatchPolicy


class AlignMix(Mixing):
    """Blend feature maps after transporting one to the places of the other, so that like is mixed with like.

    Every place of the anchor's last map meets the weighted average of the partner's places that optimal transport
    assigns to it, or the other way round; the result keeps the pose of the one and takes up the look of the other. Half
    of the batches are mixed by the policy at the input instead.

    Args:
        model: The classifier.
        policy: What draws partners and ratio, and mixes the images where features are not aligned; ``None`` takes
            ``MixUp(alpha=2.0)``. Aligned features are mixed by its label weights.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        layer: The module whose output is aligned, a map ``(B, C, h, w)`` or tokens ``(B, N, C)``, as
            ``model.named_modules()`` calls it; ``None`` takes the last stage, or what a timm model says, or the last
            part of a plain ``nn.Sequential`` that has a convolution.
        p: Probability of aligning a batch instead of mixing its images.
        eps: Weight of the entropy in the transport.
        iterations: Of the transport.
        tolerance: Stop the iteration early, see :func:`mixwell.ops.sinkhorn.log_transport`; published: 0.1 with
            ``iterations=100``. It waits for the device in every iteration.
        normalise: Compare directions of features only: their distances then lie in [0, 4], and the transport converges.
        exact: Let the weights of every place add up to one, whether the transport has converged or not; ``False`` takes
            them as they are, as published.
        scope: Draw the direction once per ``"batch"``, as published, or per ``"sample"``.
        label: What a mixed image is called, as in :class:`Mixing`.
        loss: What an error costs, ``(logits, mixed) -> scalar``.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.
        ValueError: There is no such layer, it cannot be told or puts out no map, or a setting is out of range.

    Note:
        The published code stops on a rule that couples the samples of a batch, and mixes with a plan that may be far
        from converged: the weights of some places then add up to nearly nothing or to twice as much. Here they always
        add up to one, after a fixed number of iterations; ``iterations=100, tolerance=0.1, exact=False`` is the
        published form. The decoder that the paper also trains, and aligning several layers, are not here.

    Source: Venkataramanan et al., *AlignMixup: Improving Representations by Interpolating Aligned Features*, CVPR 2022
    (arXiv:2103.15375).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
        >>> method = AlignMix(model, p=1.0)
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        layer: str | None = None,
        p: float = 0.5,
        eps: float = 0.1,
        iterations: int = 50,
        tolerance: float | None = None,
        normalise: bool = False,
        exact: bool = True,
        scope: str = "batch",
        label: LabelPolicy = PixelShare(),
        loss: Loss = cross_entropy,
    ) -> None:
        policy = MixUp(alpha=2.0) if policy is None else policy
        super().__init__(model, policy, num_classes=num_classes, label=label, loss=loss)
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability between 0 and 1, but got {p}.")
        if scope not in ("batch", "sample"):
            raise ValueError(f"scope must be batch or sample, but got {scope!r}.")
        log_transport(torch.zeros(1, 1, 1), eps, iterations)  # complains about its settings
        self.gate = Gate(model, last_map(model) if layer is None else layer)
        self.p, self.scope = p, scope
        self.eps, self.iterations, self.tolerance = eps, iterations, tolerance
        self.normalise, self.exact = normalise, exact

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`."""
        plan = self.policy.draw(images, labels, model=self.model)
        clean_logits = self._clean_logits(images)
        if float(torch.rand(())) < self.p:
            coins = torch.rand(len(images) if self.scope == "sample" else 1, device=images.device)
            with self.gate.opened(Alignment(self, plan, coins < 0.5)):
                logits = self.model(images)
        else:
            images = plan.apply(images)
            logits = self.model(images)
        mixed = MixedBatch(images, plan.source_labels(labels), plan.weights, plan)
        return self._judged(logits, mixed, clean_logits)


class Alignment:
    """The change of features that one step of :class:`AlignMix` makes.

    Args:
        settings: The method, whose settings of the transport count.
        plan: Sources and label weights of the batch.
        backwards: Direction, see :func:`mixwell.ops.sinkhorn.mix_aligned`.

    Example:
        >>> method = AlignMix(nn.Sequential(nn.Conv2d(3, 6, 1)))
        >>> plan = method.policy.draw(torch.rand(2, 3, 8, 8), torch.arange(2))
        >>> Alignment(method, plan, torch.tensor([True]))(torch.rand(2, 6, 4, 4)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, settings: AlignMix, plan: Plan, backwards: Tensor) -> None:
        self.settings, self.plan, self.backwards = settings, plan, backwards

    def __call__(self, features: Tensor) -> Tensor:
        _check(features, self.settings.gate.name, self.plan)
        tokens = features.dim() == 3
        last = tokens or channels_come_last(features, self.plan.size)
        wide = features if last else features.movedim(1, -1)
        points = wide if tokens else wide.flatten(1, 2)
        partner, own = points.index_select(0, self.plan.partners[0]), self.plan.weights[:, 0]
        log_plan = self._transport(points.detach(), partner.detach())
        mixed = mix_aligned(points, partner, own, self.backwards, log_plan, self.settings.exact)
        mixed = mixed.reshape(wide.shape)
        return mixed if last else mixed.movedim(-1, 1)

    def _transport(self, a: Tensor, b: Tensor) -> Tensor:
        s = self.settings
        if s.normalise:
            a, b = F.normalize(a.float(), dim=2), F.normalize(b.float(), dim=2)
        return log_transport(squared_distances(a, b), s.eps, s.iterations, s.tolerance)[0]


def _check(features: Tensor, name: str, plan: Plan) -> None:
    if features.dim() not in (3, 4):
        raise ValueError(
            f"AlignMix needs a map (B, C, h, w) or tokens (B, N, C), but {name!r} puts out {tuple(features.shape)}: "
            "name another layer."
        )
    if len(plan.partners) != 1:
        raise ValueError(f"AlignMix aligns two sources, but the policy mixes {1 + len(plan.partners)}.")
