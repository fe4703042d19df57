"""Adversarial noise on the images before they are mixed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.features.isolation import frozen_parameters, undisturbed
from mixwell.features.passes import logits_of, reading
from mixwell.labels import Boxes, LabelPolicy, PixelShare
from mixwell.losses import CrossEntropy
from mixwell.methods.method import LossFunction, Method, Output, unmixed
from mixwell.normalization import Normalization, pixels_of
from mixwell.policy import BatchPolicy, NoMix, simple_policies
from mixwell.saliency import InputGradient
from mixwell.schedule import Schedule
from mixwell.typecheck import Fraction, NonNegativeFloat


class PerturbedMixing(Method):
    """Mix images some of which have adversarial noise, as PuzzleMix does in its strongest recipes.

    One gradient of the loss by the images is used twice: its sign gives the noise, and its magnitude is the saliency of
    a policy that uses :class:`InputGradient`, also inside :class:`OneOf` or :class:`Sometimes`. The forward pass behind
    it may train the classifier as well (``clean_lam``).

    Args:
        model: See :class:`Mixing`.
        policy: See :class:`Mixing`.
        num_classes: See :class:`Mixing`.
        p: Probability that an image is perturbed, a number or a schedule; published: 0.1 on CIFAR, 0.15 on
            Tiny-ImageNet.
        epsilon: Largest change of a pixel, in levels of 255.
        clean_lam: Weight of the loss of the images before they are mixed, where perturbed images have only the random
            start of their noise; a number or a schedule; published: 1 on Tiny-ImageNet, 0 elsewhere. If it is positive,
            that pass runs in training mode and updates batch-norm statistics, as published.
        label: See :class:`Mixing`.
        loss: See :class:`Mixing`; the noise follows the gradient of this loss.
        normalization: How the images were normalized; None means that they are in [0, 1]. Noise is added in pixel
            values.

    Raises:
        TypeError: See :class:`Mixing`.
        ValueError: ``p`` is not a probability, ``epsilon`` or ``clean_lam`` is negative, or images without a
            normalization reach outside [0, 1].

    Note:
        The authors decide once for all anchors of a batch and once for all partners; here every image is perturbed or
        not, wherever it is mixed. Their ImageNet code adds ``clean_lam`` times the mean cross-entropy, as here. Their
        code for small images trains on mixed images by binary cross-entropy, a mean over N classes, and scales the
        clean loss by ``2 / N`` to match: with such a loss, their weight of 1 is ``clean_lam=2 / N``.

    Source: Kim et al., *Puzzle Mix*, ICML 2020 (arXiv:2009.06962); the step is that of Wong et al., *Fast is
    better than free: Revisiting adversarial training*, ICLR 2020.

    Example:
        >>> from mixwell import MixUp
        >>> method = PerturbedMixing(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), MixUp(), p=0.5)
        >>> method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].backward()
    """

    p: float
    epsilon: float
    clean_lam: float

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int | None = None,
        p: Fraction | Schedule = 0.1,
        epsilon: NonNegativeFloat | Schedule = 10.0,
        clean_lam: NonNegativeFloat | Schedule = 0.0,
        label: LabelPolicy = PixelShare(),
        loss: LossFunction = CrossEntropy(),
        normalization: Normalization | None = None,
    ) -> None:
        policy = NoMix() if policy is None else policy
        super().__init__(model, policy, label, loss, normalization, p=p, epsilon=epsilon, clean_lam=clean_lam)

    def forward(self, images: Tensor, labels: Tensor, *, masks: Tensor | None = None, boxes: Boxes = None) -> Output:
        """See :meth:`Method.forward`; logs the loss of the images before mixing if it is trained on."""
        clean_lam, size = self.clean_lam, self.epsilon / 255
        with torch.no_grad():
            chosen = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
            pixels = pixels_of(images, self.normalization, "PerturbedMixing")
            start = (pixels + (torch.rand_like(pixels) * 2 - 1) * size).clamp(0, 1) - pixels
            started = torch.where(chosen, self._normalized(pixels + start).to(images.dtype), images)
        gradient, clean_loss = self._gradient(started, labels, train=clean_lam > 0)
        with torch.no_grad():
            noise = (start + (size + 2 / 255) * gradient.sign()).clamp(-size, size)  # a long step within the limit
            noise = noise * torch.rand((), device=images.device)
            noisy = self._normalized((pixels + noise).clamp(0, 1)).to(images.dtype)
            noisy = torch.where(chosen, noisy, images)

        saliency = {"saliency": gradient.square().mean(1).sqrt()} if _uses_gradient(self.policy) else {}
        mixed = self.policy.__call__(noisy, labels, **saliency, **self.policy_arguments)
        fields = self.seen(images, labels, masks, boxes)
        with reading(self.on_mixed):
            logits = logits_of(self.model(mixed.images))
        mixed = self.weighted(mixed, logits, fields)
        total = self.loss(logits, mixed)
        if clean_lam > 0:
            return self.step_output(total + clean_lam * clean_loss, logits, mixed, clean_loss=clean_loss)
        return self.step_output(total, logits, mixed)

    def _normalized(self, pixels: Tensor) -> Tensor:
        return pixels if self.normalization is None else self.normalization.normalize(pixels)

    def _gradient(self, images: Tensor, labels: Tensor, train: bool) -> tuple[Tensor, Tensor]:
        """Return the gradient of every image's loss ``(B, C, H, W)``, float32, and the mean loss."""
        inner = self.model.module if isinstance(self.model, nn.parallel.DistributedDataParallel) else self.model
        with ExitStack() as stack:
            if not train:
                stack.enter_context(undisturbed(inner))
                stack.enter_context(frozen_parameters(inner))
            stack.enter_context(torch.enable_grad())
            inputs = images.detach().requires_grad_()
            mean_loss = self.loss(logits_of((self.model if train else inner)(inputs)), unmixed(images, labels))
            (gradient,) = torch.autograd.grad(mean_loss * len(images), inputs, retain_graph=train)
        return gradient.float(), mean_loss


def _uses_gradient(policy: Any) -> bool:
    """Return whether every saliency source inside a policy is the input gradient, and there is one."""
    inside = simple_policies(policy) if isinstance(policy, BatchPolicy) else []
    sources = [getattr(one, "saliency", None) for one in inside if getattr(one, "uses_saliency", False)]
    return bool(sources) and all(isinstance(source, InputGradient) for source in sources)
