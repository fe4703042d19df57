"""AugMix: consistent predictions on an image and two augmented views of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

import torch
from torch import Tensor, nn

import mixwell.ops.augmentations as ops
from mixwell.batch import MixedBatch, check_images
from mixwell.features.passes import logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output, relabelled
from mixwell.normalization import Normalization, pixels_of
from mixwell.policy import BatchPolicy, NoMix
from mixwell.ratio import Beta
from mixwell.schedule import Schedule
from mixwell.typecheck import NonNegativeFloat, PositiveFloat, PositiveInt, Within
from mixwell.value import Value

Augmentation = Callable[[Tensor, Tensor, Tensor], Tensor]  # images in [0, 1], level in tenths of the largest, sign


def _pixels(level: Tensor, side: int) -> Tensor:
    return (level * side / 30).floor()  # at most a third of the side


# How strong each augmentation is at a level from 0 to 10, as in the authors' code.
BASIC: tuple[Augmentation, ...] = (
    lambda x, level, sign: ops.autocontrast(x),
    lambda x, level, sign: ops.equalize(x),
    lambda x, level, sign: ops.posterize(x, 4 - (level * 0.4).floor()),
    lambda x, level, sign: ops.rotate(x, sign * (level * 3).floor()),
    lambda x, level, sign: ops.solarize(x, 256 - (level * 25.6).floor()),
    lambda x, level, sign: ops.shear_x(x, sign * level * 0.03),
    lambda x, level, sign: ops.shear_y(x, sign * level * 0.03),
    lambda x, level, sign: ops.translate_x(x, sign * _pixels(level, x.shape[3])),
    lambda x, level, sign: ops.translate_y(x, sign * _pixels(level, x.shape[2])),
)
MORE: tuple[Augmentation, ...] = (
    lambda x, level, sign: ops.colour(x, level * 0.18 + 0.1),
    lambda x, level, sign: ops.contrast(x, level * 0.18 + 0.1),
    lambda x, level, sign: ops.brightness(x, level * 0.18 + 0.1),
    lambda x, level, sign: ops.sharpness(x, level * 0.18 + 0.1),
)


class AugMixViews(Value):
    """Makes a view of every image: the image blended with an average of several chains of augmentations.

    Every image has chains of its own; images that take the same step are augmented together.

    Args:
        severity: Largest level of an augmentation, up to 10; levels are drawn between 0.1 and this. The authors use 3
            on CIFAR and 1 on ImageNet.
        width: Chains for every view.
        depth: Augmentations in a chain; None draws 1 to 3 for each.
        alpha: Parameter of the distributions of the chains' weights, ``Dirichlet(alpha)``, and of their share of the
            view, ``Beta(alpha)``.
        all_ops: Also change colour, contrast, brightness and sharpness, which overlap with the corruptions of
            CIFAR-10-C and ImageNet-C.

    Raises:
        TypeError: Images are of a type that cannot be mixed.
        ValueError: A setting is out of range, images have another shape, or images without a normalization reach
            outside [0, 1].

    Note:
        The authors round to 8 bits after every augmentation; here values are not rounded.

    Source: Hendrycks et al., *AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty*,
    ICLR 2020 (arXiv:1912.02781).

    Example:
        >>> AugMixViews()(torch.rand(4, 3, 16, 16)).shape
        torch.Size([4, 3, 16, 16])
    """

    severity: Annotated[float, Within(0.1, 10)] = 3.0
    width: PositiveInt = 3
    depth: PositiveInt | None = None
    alpha: PositiveFloat = 1.0
    all_ops: bool = False

    def __call__(
        self, images: Tensor, generator: torch.Generator | None = None, normalization: Normalization | None = None
    ) -> Tensor:
        """Make one view of every image.

        Args:
            images: Shape ``(B, C, H, W)``, floating point or uint8.
            generator: Source of randomness; None takes torch's default on the host. One on a GPU waits for the device.
            normalization: How float images were normalized; None means that they are in [0, 1].

        Returns:
            Views like the images.
        """
        check_images(images)
        return _view_uncompiled(self, images, generator, normalization)

    def augmented(self, chains: Tensor, generator: torch.Generator | None, host: torch.device | str) -> Tensor:
        """Return images in [0, 1] after the steps that are drawn for each of them."""
        makers, n, steps = BASIC + MORE * self.all_ops, len(chains), self.depth or 3
        draws = torch.rand(n, steps, 3, device=host, generator=generator)
        length = torch.randint(1, 4, (n,), device=host, generator=generator) if self.depth is None else None
        kind = (draws[..., 0] * len(makers)).long().cpu()
        levels = (0.1 + (self.severity - 0.1) * draws[..., 1]).to(chains.device)
        signs = torch.where(draws[..., 2] < 0.5, -1.0, 1.0).to(chains.device)
        for step in range(steps):
            active = kind[:, step] if length is None else torch.where(length.cpu() > step, kind[:, step], -1)
            for number, make in enumerate(makers):
                rows = (active == number).nonzero()[:, 0].to(chains.device)
                if len(rows):
                    chains[rows] = make(chains[rows], levels[rows, step], signs[rows, step])
        return chains


def dirichlet(
    rows: int, parts: int, alpha: float, device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """Draw from a symmetric Dirichlet distribution.

    Gamma variables are drawn in log space, ``log G(alpha) = log G(alpha + 1) + log U / alpha``, as those of a small
    alpha underflow.

    Returns:
        Shape ``(rows, parts)``, float32; rows sum to one.

    Example:
        >>> dirichlet(2, 3, alpha=0.0001).sum(1)
        tensor([1., 1.])
    """
    larger = torch.full((rows, parts), alpha + 1.0, device=device, dtype=torch.float64)
    uniform = torch.rand(rows, parts, device=device, dtype=torch.float64, generator=generator)
    return (torch._standard_gamma(larger, generator).log() + uniform.log() / alpha).softmax(1).float()


def _view(
    views: AugMixViews, images: Tensor, generator: torch.Generator | None, normalization: Normalization | None
) -> Tensor:
    host = "cpu" if generator is None else generator.device
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        m = Beta(views.alpha)(len(images), host, generator).to(images.device)[:, None, None, None]
        weights = dirichlet(len(images), views.width, views.alpha, host, generator).to(images.device)
        pixels = pixels_of(images, normalization, "AugMixViews").clamp(0, 1)
        levels = (pixels * 255).round()  # exact again after a normalization, as steps such as equalize count levels
        pixels = torch.where((pixels * 255 - levels).abs() < 1e-3, levels / 255, pixels)
        chains = views.augmented(pixels.repeat_interleave(views.width, 0), generator, host)
        mixed = torch.einsum("bk,bkchw->bchw", weights, chains.unflatten(0, (-1, views.width)))
        if images.dtype == torch.uint8:
            return torch.lerp(images.float(), mixed * 255, m).round().to(images.dtype)
        mixed = mixed if normalization is None else normalization.normalize(mixed)
        return torch.lerp(images.float(), mixed, m).to(images.dtype)


# The host decides which augmentation each image gets, so that this part is not compiled. torch.compiler.disable would
# import the compiler with this file, which takes longer than all the rest of mixwell; this does so when it is called.
_view_uncompiled = cast(Callable[..., Tensor], torch._disable_dynamo(_view))


class AugMix(Method):
    """Train for the same prediction on an image and two augmented views of it.

    ``loss = CE(image) + weight * JS(image, view, view)``; all three go through the model as one batch.

    Args:
        model: The classifier.
        policy: Mixes images and both views by one plan; None mixes nothing, as published.
        num_classes: Ignored; accepted so that all methods share a signature.
        views: How views are made.
        weight: Weight of the Jensen-Shannon divergence, a number or a schedule; 0 trains on the images alone.
        label: See :class:`Mixing`.
        loss: See :class:`Mixing`. The divergence compares softmax probabilities, whatever the loss is.
        normalization: How the images were normalized; None means that they are in [0, 1]. Views are made in pixel
            values.

    Raises:
        TypeError: The model is not an ``nn.Module``, or the policy has no ``draw``.
        ValueError: ``weight`` is negative.

    Note:
        The authors make the views of one 8-bit image after the other in the data loader; here the whole batch gets
        them on its device, without rounding. OpenMixup clips normalized images at 0 and 1, uses one augmentation for
        all images of a batch, and omits the divergence.

    Source: Hendrycks et al., *AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty*,
    ICLR 2020 (arXiv:1912.02781).

    Example:
        >>> method = AugMix(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)))
        >>> sorted(method(torch.rand(4, 3, 8, 8), torch.arange(4)))
        ['accuracy', 'divergence', 'loss', 'output']
    """

    views: AugMixViews
    weight: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        views: AugMixViews = AugMixViews(),
        weight: NonNegativeFloat | Schedule = 12.0,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = NoMix() if policy is None else policy
        super().__init__(model, policy, label, loss, normalization, calls="draw", views=views, weight=weight)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; the output is that of the images, and the divergence is logged."""
        plan = self.policy.draw(images, labels, **self.policy_arguments)
        fields = self.seen(images, labels, masks, boxes)
        views = [self.views(images, normalization=self.normalization) for _ in range(2)]
        three = torch.cat([plan.apply(one) for one in (images, *views)])
        with reading(self.on_mixed):
            logits = logits_of(self.model(three)).chunk(3)
        rows = slice(len(images))
        mixed = MixedBatch(three[rows], plan.source_labels(labels), plan.weights, plan)
        if self.label.needs:
            fields = {**fields, **self.observer.clean_fields(images), **self.observer.mixed_fields(three, rows)}
        mixed = relabelled(mixed, self.label, logits[0], fields)
        divergence = jensen_shannon(torch.stack(logits))
        total = self.loss(logits[0], mixed) + self.weight * divergence
        return self.step_output(total, logits[0], mixed, divergence=divergence)


def jensen_shannon(logits: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of several predictions: the mean divergence of each from their average.

    Computed in float32. It lies between 0, where all agree, and ``log V``.

    Args:
        logits: Logits of V views, shape ``(V, B, N)``.

    Returns:
        A scalar, the mean over the batch.

    Example:
        >>> jensen_shannon(torch.zeros(3, 4, 10))
        tensor(0.)
        >>> jensen_shannon(100 * torch.eye(3)[:, None])  # the largest divergence of three views, log 3
        tensor(1.0986)
    """
    log_p = logits.float().log_softmax(2)
    p = log_p.exp()
    average = p.mean(0).clamp(1e-7, 1).log()
    return (p * (log_p - average)).sum(2).mean()
