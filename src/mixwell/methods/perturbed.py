"""Adversarial noise on the images that are mixed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.labels import LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction
from mixwell.methods.mixing import Mixing
from mixwell.methods.normalisation import as_channels, check_channels
from mixwell.ops.perturb import adversarial_noise
from mixwell.policy import BatchPolicy, OneOf, Sometimes
from mixwell.saliency import InputGradient
from mixwell.saliency.gradient import input_gradient


class PerturbedMixing(Mixing):
    """Mix images some of which carry adversarial noise, as PuzzleMix does in its strongest recipes.

    One gradient serves twice: its sign makes the noise, and its size is the saliency of a policy that looks at
    :class:`InputGradient`, also inside :class:`OneOf`, :class:`Sometimes` or a schedule. The pass that it comes from
    may teach the classifier as well (``clean_lam``).

    Args:
        model: See :class:`Mixing`.
        policy: See :class:`Mixing`.
        num_classes: See :class:`Mixing`.
        p: Probability that an image is perturbed; published: 0.1 on CIFAR, 0.15 on Tiny-ImageNet.
        epsilon: Largest change of a pixel, in levels of 255.
        mean: What was subtracted from images in [0, 1], a number or one for each channel.
        std: What they were divided by then.
        clean_lam: Weight of the loss of the images before they are mixed, where they carry no more than the random
            start of their noise; published: 1 on Tiny-ImageNet, 0 elsewhere. That pass then runs in train mode and
            moves batch-norm statistics, as published, instead of leaving the classifier as it is.
        label: See :class:`Mixing`.
        loss: See :class:`Mixing`.

    Raises:
        TypeError: See :class:`Mixing`.
        ValueError: ``p`` is no probability, ``epsilon`` or ``clean_lam`` is negative, ``std`` is not positive or, when
            called, images have another number of channels than ``mean`` or ``std``.

    Note:
        The authors decide once for all anchors of a batch and once for all partners; here every image is perturbed or
        not, in whichever place it is mixed. Their ImageNet code adds ``clean_lam`` times the mean cross-entropy, as
        here. Their code for small images learns from mixed ones by binary cross-entropy, a mean over N classes, and
        scales the other by ``2 / N`` to match: beside such a loss, ``clean_lam=2 / N`` is what they call 1.

    Source: Kim et al., *Puzzle Mix*, ICML 2020 (arXiv:2009.06962); the step is that of Wong et al., *Fast is
    better than free: Revisiting adversarial training*, ICLR 2020.

    Example:
        >>> from mixwell import MixUp
        >>> method = PerturbedMixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), MixUp(), p=0.5)
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        p: float = 0.1,
        epsilon: float = 10.0,
        mean: float | tuple[float, ...] = 0.0,
        std: float | tuple[float, ...] = 1.0,
        clean_lam: float = 0.0,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
    ) -> None:
        super().__init__(model, policy, num_classes=num_classes, label=label, loss=loss)
        if not 0 <= p <= 1 or not epsilon >= 0 or not clean_lam >= 0:
            raise ValueError(
                "p must be a probability, and epsilon and clean_lam not negative, but got "
                f"p={p}, epsilon={epsilon} and clean_lam={clean_lam}."
            )
        self.p, self.epsilon, self.clean_lam = p, epsilon / 255, clean_lam
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, as_channels(name, value), persistent=False)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; the loss of the images before mixing is logged where it counts."""
        noisy, maps, clean = self._perturbed(images, labels)
        mixed = self.policy(noisy, labels, model=self.model, saliency=maps)
        step = self._learn(mixed, images)
        if clean is not None:
            step |= {"loss": step["loss"] + self.clean_lam * clean, "clean_loss": clean.detach()}
        return step

    @torch.no_grad()
    def _perturbed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the images, some with noise, their saliency where the policy asks for it, and their loss to learn."""
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
        mean, std = check_channels("mean", self.mean, images), check_channels("std", self.std, images)
        pixels = images.float() * std + mean
        start = (torch.rand_like(pixels) * 2 - 1) * self.epsilon
        start = torch.where(chosen, (pixels + start).clamp(0, 1) - pixels, 0.0)
        gradient, clean = self._looked_at((images.float() + start / std).to(images.dtype), labels)
        noise = adversarial_noise(start, gradient, self.epsilon) * torch.rand((), device=images.device)
        noisy = ((pixels + noise).clamp(0, 1) - mean) / std
        sources = _sources(self.policy)
        asked = bool(sources) and all(isinstance(source, InputGradient) for source in sources)
        maps = gradient.square().mean(1).sqrt() if asked else None
        return torch.where(chosen, noisy.to(images.dtype), images), maps, clean

    def _looked_at(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the gradient of every image's own loss, and the mean of the losses where it is learnt from."""
        if not self.clean_lam:
            return input_gradient(self.model, images, labels), None
        with torch.enable_grad():
            pixels = images.detach().requires_grad_()
            total = F.cross_entropy(self.model(pixels).float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(total, pixels, retain_graph=True)
            return gradient.float(), total / len(images)


def _sources(policy: Any) -> list[Any]:
    """Return the saliency sources of a policy, or of those it is made of and which may mix now."""
    if isinstance(policy, OneOf | Sometimes):
        members = policy.policies if isinstance(policy, OneOf) else (policy.policy,)
        return [source for member in members for source in _sources(member)]
    return [getattr(policy, "saliency", None)] if getattr(policy, "uses_saliency", False) else []
