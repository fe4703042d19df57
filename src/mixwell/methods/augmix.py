"""AugMix."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

import mixwell.ops.augmentations as ops
from mixwell.batch import MixedBatch, check_images
from mixwell.labels import LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction
from mixwell.methods.mixing import Mixing
from mixwell.methods.normalisation import as_channels, check_channels
from mixwell.policy import BatchPolicy
from mixwell.ratio import Beta
from mixwell.value import Value, set_field

Augmentation = Callable[[Tensor, Tensor, Tensor], Tensor]  # images in [0, 1], level in tenths of the most, sign
NAMES = ("mean", "std")


def _pixels(level: Tensor, side: int) -> Tensor:
    return (level * side / 30).floor()  # at most a third of the side


# What a level from 0 to 10 means, as in the authors' code.
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
    """Makes a view of every image: itself, mixed with an average of several chains of ordinary augmentations.

    Every image has chains of its own; images that take the same step are augmented together.

    Args:
        mean: What was subtracted from the images, a number or one for each channel, as a share of the whole range;
            ``None`` takes every image's own smallest and largest value for black and white.
        std: What they were divided by afterwards; goes with ``mean``.
        severity: Largest level of an augmentation, up to 10; levels are drawn between 0.1 and this. The authors use 3
            on CIFAR and 1 on ImageNet.
        width: Chains for every view.
        depth: Augmentations in a chain; ``None`` draws 1 to 3 for each.
        alpha: Law of the chains' weights, ``Dirichlet(alpha)``, and of their share of the view, ``Beta(alpha)``.
        all_ops: Also change colour, contrast, brightness and sharpness, which overlap with the corruptions of
            CIFAR-10-C and ImageNet-C.

    Raises:
        TypeError: Images are of a type that cannot be mixed.
        ValueError: A setting is out of range, or images have another shape or another number of channels.

    Note:
        The authors round to 8 bits after every augmentation; here values stay as they are.

    Source: Hendrycks et al., *AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty*,
    ICLR 2020 (arXiv:1912.02781).

    Example:
        >>> view = AugMixViews(mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26))(torch.randn(4, 3, 16, 16))
        >>> view.shape
        torch.Size([4, 3, 16, 16])
    """

    mean: float | tuple[float, ...] | None = None
    std: float | tuple[float, ...] | None = None
    severity: float = 3.0
    width: int = 3
    depth: int | None = None
    alpha: float = 1.0
    all_ops: bool = False

    def __post_init__(self) -> None:
        for name in NAMES:
            if isinstance(getattr(self, name), list):
                set_field(self, name, tuple(getattr(self, name)))
        if (self.mean is None) != (self.std is None):
            raise ValueError(f"mean and std go together, but got mean={self.mean} and std={self.std}.")
        if self.mean is not None and self.std is not None:
            set_field(self, "_mean", as_channels("mean", self.mean))
            set_field(self, "_std", as_channels("std", self.std))
        if not 0.1 <= self.severity <= 10:
            raise ValueError(f"severity must lie between 0.1 and 10, but got {self.severity}.")
        if self.width < 1 or (self.depth is not None and self.depth < 1):
            raise ValueError(f"width and depth must be at least 1, but got {self.width} and {self.depth}.")
        set_field(self, "_share", Beta(self.alpha))

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Make one view of every image.

        Args:
            images: Shape ``(B, C, H, W)``, floating point or uint8.
            generator: Source of randomness; ``None`` takes torch's default on the host. One on a GPU is waited for.

        Returns:
            Views like the images.
        """
        check_images(images)
        return _view_uncompiled(self, images, generator)

    def _view(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        host = "cpu" if generator is None else generator.device
        share: Beta = self._share  # type: ignore[attr-defined]  # set when the settings were checked
        m = share(len(images), host, generator).to(images.device)[:, None, None, None]
        parameters = torch.full((len(images), self.width), self.alpha, device=host, dtype=torch.float64)
        weights = torch._sample_dirichlet(parameters, generator).float().to(images.device)
        shift, scale = self._range(images)
        unit = ((images.float() - shift) / scale).clamp(0, 1)
        chains = self._augmented(unit.repeat_interleave(self.width, 0), generator, host)
        mixed = torch.einsum("bk,bkchw->bchw", weights, chains.unflatten(0, (-1, self.width))) * scale + shift
        view = torch.lerp(images.float(), mixed, m)
        return view.round().to(images.dtype) if images.dtype == torch.uint8 else view.to(images.dtype)

    def _range(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what black is in the images, and how far white is from it."""
        if images.dtype == torch.uint8:
            return torch.zeros((), device=images.device), torch.full((), 255.0, device=images.device)
        if self.mean is None or self.std is None:
            low, high = images.float().aminmax(dim=1, keepdim=True)
            low, high = low.amin((2, 3), keepdim=True), high.amax((2, 3), keepdim=True)
            return low, (high - low).clamp_min(1e-6)
        mean, std = (check_channels(name, getattr(self, f"_{name}"), images).to(images.device) for name in NAMES)
        return -mean / std, 1 / std

    def _augmented(self, chains: Tensor, generator: torch.Generator | None, host: torch.device | str) -> Tensor:
        makers, n, steps = BASIC + MORE * self.all_ops, len(chains), self.depth or 3
        draws = torch.rand(n, steps, 3, device=host, generator=generator)
        length = torch.randint(1, 4, (n,), device=host, generator=generator) if self.depth is None else None
        kind = (draws[..., 0] * len(makers)).long().cpu()
        levels = (0.1 + (self.severity - 0.1) * draws[..., 1]).to(chains.device)
        signs = torch.where(draws[..., 2] < 0.5, -1.0, 1.0).to(chains.device)
        for step in range(steps):
            going = kind[:, step] if length is None else torch.where(length.cpu() > step, kind[:, step], -1)
            for number, make in enumerate(makers):
                rows = (going == number).nonzero()[:, 0].to(chains.device)
                if len(rows):
                    chains[rows] = make(chains[rows], levels[rows, step], signs[rows, step])
        return chains


def _view(views: AugMixViews, images: Tensor, generator: torch.Generator | None) -> Tensor:
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        return views._view(images, generator)


# Which augmentation goes to which image is decided on the host. torch.compiler.disable would import the compiler here
# and now, which takes longer than all the rest of mixwell; this does so where it is called.
_view_uncompiled = cast(Callable[[AugMixViews, Tensor, torch.Generator | None], Tensor], torch._disable_dynamo(_view))


class AugMix(Mixing):
    """Ask for the same prediction on an image and two augmented views of it.

    ``loss = CE(image) + weight * JS(image, view, view)``; all three go through the model as one batch.

    Args:
        model: The classifier.
        policy: Mixes images and both views alike, by one plan; ``None`` mixes nothing, as published.
        num_classes: Number of classes N; not needed, taken so that all methods are made alike.
        views: What makes a view; tell it the images' ``mean`` and ``std``.
        weight: Of the Jensen-Shannon divergence; 0 trains on the images alone.
        label: What an image mixed by the policy is called, as in :class:`Mixing`.
        loss: What an error costs, ``(logits, mixed) -> scalar``.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.
        ValueError: ``weight`` is negative.

    Note:
        The authors make the views of one 8-bit image after the other in the data loader; here the whole batch gets
        them on its device, without rounding. OpenMixup cuts normalised images off at 0 and 1, takes one augmentation
        for all images of a batch, and leaves the divergence out.

    Source: Hendrycks et al., *AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty*,
    ICLR 2020 (arXiv:1912.02781).

    Example:
        >>> method = AugMix(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)))
        >>> sorted(method(torch.rand(4, 3, 8, 8), torch.arange(4)))
        ['divergence', 'loss', 'output']
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        views: AugMixViews = AugMixViews(),
        weight: float = 12.0,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
    ) -> None:
        super().__init__(model, policy, num_classes=num_classes, label=label, loss=loss)
        if not weight >= 0:
            raise ValueError(f"weight must not be negative, but got {weight}.")
        self.views, self.weight = views, weight

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; the output is that of the images, and the divergence is logged."""
        plan = self.policy.draw(images, labels, model=self.model)
        clean_logits = self._clean_logits(images)
        three = [plan.apply(view) for view in (images, self.views(images), self.views(images))]
        logits = self.model(torch.cat(three)).chunk(3)
        mixed = MixedBatch(three[0], plan.source_labels(labels), plan.weights, plan)
        step = self._judged(logits[0], mixed, clean_logits)
        divergence = jensen_shannon(torch.stack(logits))
        return {**step, "loss": step["loss"] + self.weight * divergence, "divergence": divergence.detach()}


def jensen_shannon(logits: Tensor) -> Tensor:
    """Return how far several predictions are apart: the mean divergence of each from their average.

    Computed in float32. It lies between 0, where all agree, and ``log V``.

    Args:
        logits: Of V views, shape ``(V, B, N)``.

    Returns:
        A scalar, the mean over the batch.

    Example:
        >>> jensen_shannon(torch.zeros(3, 4, 10))
        tensor(0.)
        >>> jensen_shannon(100 * torch.eye(3)[:, None])  # as far apart as three can be: log 3
        tensor(1.0986)
    """
    log_p = logits.float().log_softmax(2)
    p = log_p.exp()
    average = p.mean(0).clamp(1e-7, 1).log()
    return (p * (log_p - average)).sum(2).mean()
