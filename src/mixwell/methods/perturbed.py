"""Adversarial noise on the images that are mixed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mixwell.labels import LabelPolicy, PixelShare
from mixwell.losses import cross_entropy
from mixwell.methods.mixing import Loss, Mixing
from mixwell.ops.perturb import adversarial_noise
from mixwell.policy import BatchPolicy
from mixwell.saliency import InputGradient
from mixwell.saliency.gradient import input_gradient


class PerturbedMixing(Mixing):
    """Mix images some of which carry adversarial noise, as PuzzleMix does in its strongest recipes.

    One gradient serves twice: its sign makes the noise, and its size is the saliency of a policy that looks at
    :class:`InputGradient`.

    Args:
        model: See :class:`Mixing`.
        policy: See :class:`Mixing`.
        num_classes: See :class:`Mixing`.
        p: Probability that an image is perturbed; published: 0.1 on CIFAR, 0.15 on Tiny-ImageNet.
        epsilon: Largest change of a pixel, in levels of 255.
        mean: What was subtracted from images in [0, 1], a number or one for each channel.
        std: What they were divided by then.
        label: See :class:`Mixing`.
        loss: See :class:`Mixing`.

    Raises:
        TypeError: See :class:`Mixing`.
        ValueError: ``p`` is no probability, or ``epsilon`` is negative.

    Note:
        The authors decide once for all anchors of a batch and once for all partners; here every image is perturbed or
        not, in whichever place it is mixed.

    Source: Kim et al., *Puzzle Mix*, ICML 2020 (arXiv:2009.06962); the step is that of Wong et al., *Fast is better
        than
    free: Revisiting adversarial training*, ICLR 2020.

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
        label: LabelPolicy = PixelShare(),
        loss: Loss = cross_entropy,
    ) -> None:
        super().__init__(model, policy, num_classes=num_classes, label=label, loss=loss)
        if not 0 <= p <= 1 or not epsilon >= 0:
            raise ValueError(f"p must be a probability and epsilon not negative, but got p={p} and epsilon={epsilon}.")
        self.p, self.epsilon = p, epsilon / 255
        for name, value in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`."""
        noisy, maps = self._perturbed(images, labels)
        return self._learn(self.policy(noisy, labels, model=self.model, saliency=maps), images)

    @torch.no_grad()
    def _perturbed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images, some of them with noise, and their saliency where the policy asks for that."""
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
        pixels = images.float() * self.std + self.mean
        start = (torch.rand_like(pixels) * 2 - 1) * self.epsilon
        start = torch.where(chosen, (pixels + start).clamp(0, 1) - pixels, 0.0)
        gradient = input_gradient(self.model, (images.float() + start / self.std).to(images.dtype), labels)
        noise = adversarial_noise(start, gradient, self.epsilon) * torch.rand((), device=images.device)
        noisy = ((pixels + noise).clamp(0, 1) - self.mean) / self.std
        asked = isinstance(getattr(self.policy, "saliency", None), InputGradient)
        return torch.where(chosen, noisy.to(images.dtype), images), gradient.square().mean(1).sqrt() if asked else None
