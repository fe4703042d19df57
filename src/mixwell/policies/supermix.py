"""SuperMix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field
from functools import partial
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import Batch, Pairs
from mixwell.features.isolation import frozen_parameters, undisturbed
from mixwell.features.layers import unwrapped
from mixwell.features.passes import logits_of
from mixwell.normalization import pixels_of
from mixwell.ops.pixels import on_host
from mixwell.ops.residual import gaussian_blur
from mixwell.pairing import Pairing, Roll
from mixwell.plan import SharePlan
from mixwell.policy import Policy, Scope
from mixwell.ratio import Beta, Ratio, as_ratio
from mixwell.saliency.base import with_teacher
from mixwell.typecheck import NonNegativeFloat, PositiveFloat, PositiveInt, Within
from mixwell.value import set_field

STEP = 1e-4, 2000.0  # smallest and largest step along the gradient
LEAST = 1e-7  # smaller shares are 0: where another share is 1 in float32, the pixel is exactly that of its source


class SuperMix(Policy):
    """Optimise masks so that a teacher recognises every source of the mixed image in the proportion of its weight.

    The target of an image is the weighted sum of the classes that the teacher predicts for its sources. Coarse masks
    are changed by Newton-like steps along the smoothed gradient of the Kullback-Leibler divergence between target and
    prediction, plus a penalty on masks that are neither 0 nor 1. An image is finished when the teacher's most probable
    classes are those of the target.

    This is expensive: at most ``max_iter + 1`` forward and ``max_iter`` backward passes of the teacher per batch. On a
    CPU a batch stops when all its images are finished; on other devices all steps are run, as reading whether they are
    finished would make the host wait.

    Args:
        alpha: Parameter of the Dirichlet distribution of the weights of the sources; a distribution is that of the
            anchor's weight, and the rest is divided equally.
        pairing: Partners; each further source is the partner of the one before. Published: cyclic shifts.
        scope: Whether weights are drawn for every image, as published, or once per batch; masks differ in any case.
        teacher: A network to use instead of the classifier in training; published: pretrained and frozen. It is run in
            eval mode and left as it was.
        sources: Number of sources K, at least 2.
        cells: Cells per side of the masks before they are interpolated; published: 8 on CIFAR, 16 on ImageNet.
        sigma: Standard deviation of the smoothing, in cells; published: 1 on CIFAR, 2 on ImageNet.
        sparsity: Weight of the penalty on masks.
        max_iter: Largest number of steps.

    Raises:
        TypeError: The teacher is not an ``nn.Module``.
        ValueError: A setting is out of range or, when called, there is neither a model nor a teacher.

    Note:
        The authors write a data set of mixed images beforehand: they end a batch when 30 % of its images are finished,
        and keep only these. Here every image is used, and each stops by itself. They compare K classes even where two
        sources have the same class, and where ``5 * sigma`` is even their kernel is not centred. Label weights are the
        drawn ones, as published, whatever the shares of the pixels; the labels are the true ones. A weight of 1 gives
        the source itself.

    Source: Dabouei et al., *SuperMix: Supervising the Mixing Data Augmentation*, CVPR 2021 (arXiv:2003.05034).

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> mixed = SuperMix(sources=3, cells=4)(torch.rand(6, 3, 8, 8), torch.arange(6) % 5, model=model)
        >>> mixed.weights.shape, mixed.plan.share((8, 8)).shape
        (torch.Size([6, 3]), torch.Size([6, 3, 8, 8]))
    """

    alpha: float | Ratio = 3.0
    pairing: Pairing = Roll()
    scope: Scope = "sample"
    teacher: nn.Module | None = field(default=None, repr=False)
    sources: Annotated[int, Within(2)] = 2
    cells: PositiveInt = 8
    sigma: PositiveFloat = 1.0
    sparsity: NonNegativeFloat = 25.0
    max_iter: PositiveInt = 50

    reads_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "two_sources", self.sources == 2)

    def __repr__(self) -> str:
        return with_teacher(super().__repr__(), self.teacher)

    def _lam_ratio(self) -> Ratio:
        if isinstance(self.alpha, Ratio):
            return self.alpha
        return as_ratio(self.alpha) if self.sources == 2 else Beta(self.alpha, beta=(self.sources - 1) * self.alpha)

    def plan(self, pairs: Pairs) -> SharePlan:
        """See :meth:`Policy.plan`."""
        partners = [pairs.partner]
        for _ in range(self.sources - 2):
            partners.append(pairs.partner[partners[-1]])
        weights = self._weights(pairs).expand(len(pairs), -1)
        images = _inputs(pairs.batch)
        network = self._network(pairs.batch)
        with undisturbed(network), frozen_parameters(network):
            weight = next(network.parameters(), images)

            def teacher(mixed: Tensor) -> Tensor:
                return logits_of(network(mixed.to(weight.dtype))).float()

            target = soft_target(teacher(images), partners, weights)
            sources = torch.stack([images, *(images.index_select(0, partner) for partner in partners)], 1)
            shares = self.optimise(teacher, sources, target)
        pure = (weights == 1).any(1)[:, None, None, None]
        shares = torch.where(pure, weights[:, :, None, None], shares)
        drawn = Pairs(torch.stack(partners, 1), pairs.lam, pairs.size, batch=pairs.batch)
        plan = SharePlan(drawn, shares, weights)
        plan.weights = weights
        return plan

    def optimise(self, teacher: Callable[[Tensor], Tensor], sources: Tensor, target: Tensor) -> Tensor:
        """Find the share of each source in every pixel.

        Args:
            teacher: Maps images ``(B, C, H, W)`` to logits ``(B, N)``.
            sources: The sources of every mixed image, shape ``(B, K, C, H, W)``.
            target: Share of every class in the mixed image, shape ``(B, N)``.

        Returns:
            Shape ``(B, K, H, W)``, float32, summing to one over K.
        """
        size = sources.shape[3:]
        masks = target.new_zeros(*sources.shape[:2], self.cells, self.cells)
        unfinished = torch.ones_like(target[:, 0], dtype=torch.bool)
        for step in range(self.max_iter):
            with torch.enable_grad():
                masks.requires_grad_()
                shares = normalised(masks, size)
                predicted = teacher((shares[:, :, None] * sources).sum(1))
                loss = objective(shares, predicted, target, self.sparsity)
            if step:
                unfinished = unfinished & ~recognised(predicted.detach(), target)
                if on_host(unfinished) and not unfinished.any():
                    break
            (gradient,) = torch.autograd.grad(loss, masks, torch.ones_like(loss))
            masks = torch.where(unfinished[:, None, None, None], self.newton_step(masks, gradient, loss), masks)
            masks = masks.detach()
        return F.threshold(normalised(masks.detach(), size), LEAST, 0.0)

    def newton_step(self, masks: Tensor, gradient: Tensor, loss: Tensor) -> Tensor:
        """Return masks ``(B, K, h, w)`` at which the loss ``(B,)``, if it were linear, would be 0."""
        reach = int(2.5 * self.sigma)
        smooth = gaussian_blur(gradient.flatten(0, 1), 2 * reach + 1, self.sigma).view_as(gradient)
        length = loss.detach() / ((gradient * smooth).sum((1, 2, 3)) + 1e-10)
        return masks.detach() - length.clamp(*STEP)[:, None, None, None] * smooth

    def _weights(self, pairs: Pairs) -> Tensor:
        """Return the weight of every source, shape ``(S, K)``."""
        anchor, others = pairs.lam[:, None], self.sources - 1
        if others == 1 or isinstance(self.alpha, Ratio):
            rest = torch.full_like(anchor, 1 / others).expand(-1, others)
        else:  # given the first weight, the others are a Dirichlet draw of the rest
            rest = pairs.ratio(partial(_dirichlet, self.alpha, others))
        return torch.cat((anchor, (1 - anchor) * rest), 1)

    def _network(self, batch: Batch) -> nn.Module:
        network = batch.model if self.teacher is None else self.teacher
        if not isinstance(network, nn.Module):
            raise ValueError("SuperMix needs a network: call the policy with model=..., or give it a teacher.")
        return unwrapped(network)


def _dirichlet(alpha: float, parts: int, n: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Draw symmetric Dirichlet weights, shape ``(n, parts)``."""
    return torch._sample_dirichlet(torch.full((n, parts), alpha, dtype=torch.float64, device=device), generator).float()


def _inputs(batch: Batch) -> Tensor:
    """Return the images as the input of a network, float32."""
    if batch.images.is_floating_point():
        return batch.images.float()
    pixels = pixels_of(batch.images, None, "SuperMix")
    return pixels if batch.normalization is None else batch.normalization.normalize(pixels)


def soft_target(logits: Tensor, partners: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted sum of the classes that are predicted for all sources, shape ``(B, N)``.

    Args:
        logits: Predictions for the unmixed images, shape ``(B, N)``.
        partners: Rows of the sources besides the anchor, shape ``(B,)`` each.
        weights: Shape ``(B, K)``.

    Example:
        >>> soft_target(torch.eye(3), [torch.tensor([1, 2, 2])], torch.tensor([[0.25, 0.75]]).expand(3, 2))
        tensor([[0.2500, 0.7500, 0.0000],
                [0.0000, 0.2500, 0.7500],
                [0.0000, 0.0000, 1.0000]])
    """
    own = (logits.argmax(1, keepdim=True) == torch.arange(logits.shape[1], device=logits.device)).to(weights.dtype)
    classes = torch.stack([own, *(own.index_select(0, partner) for partner in partners)], 1)
    return (weights[:, :, None] * classes).sum(1)


def normalised(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Return shares ``(B, K, H, W)`` of sources: interpolated masks ``(B, K, h, w)``, as sigmoids over their sum."""
    return F.logsigmoid(F.interpolate(masks, list(size), mode="bilinear", align_corners=False)).softmax(1)


def objective(shares: Tensor, predicted: Tensor, target: Tensor, sparsity: float) -> Tensor:
    """Return the divergence of predictions from targets and the penalty on shares, shape ``(B,)``."""
    divergence = F.kl_div(predicted.log_softmax(1), target, reduction="none").sum(1)
    return divergence + sparsity * (shares * (1 - shares)).mean((1, 2, 3))


def recognised(predicted: Tensor, target: Tensor) -> Tensor:
    """Return whether the most probable classes are those of the target, as many as it has, shape ``(B,)``, bool.

    Example:
        >>> recognised(torch.tensor([[3.0, 1.0, 2.0]] * 2), torch.tensor([[0.4, 0.0, 0.6], [0.4, 0.6, 0.0]]))
        tensor([ True, False])
    """
    wanted = target > 0
    least = predicted.masked_fill(~wanted, torch.inf).amin(1)
    return least > predicted.masked_fill(wanted, -torch.inf).amax(1)
