"""Adversarial images within a maximum distance in pixel values: FGSM, PGD, and AutoAttack through its own package.

The step, the distance and the range [0, 1] all apply to pixels, never to normalized values. Put the model in evaluation
mode first; its parameters get no gradients.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.normalization import Normalization, pixels_of

Model = Callable[[Tensor], Tensor]
IN_PIXELS = Normalization()  # mean 0 and standard deviation 1, for images that are in [0, 1] already


def fgsm(
    model: Model, images: Tensor, labels: Tensor, eps: float = 8 / 255, normalization: Normalization | None = None
) -> Tensor:
    """Move every pixel by ``eps`` in the direction that raises the cross-entropy.

    Args:
        model: Returns logits ``(B, N)`` for normalized images.
        images: Normalized images, shape ``(B, C, H, W)``.
        labels: Class indices, shape ``(B,)``.
        eps: Step in pixel values, where white is 1.
        normalization: How the images were normalized; None if they are in [0, 1].

    Returns:
        Normalized images of the same shape, float32; pixels are in [0, 1] and at most ``eps`` from the given ones.

    Source: Goodfellow, Shlens and Szegedy, *Explaining and Harnessing Adversarial Examples*, ICLR 2015.

    Example:
        >>> model = lambda images: images.flatten(1) * torch.tensor([1.0, -1.0])
        >>> fgsm(model, torch.full((1, 1, 1, 2), 0.5), torch.tensor([0]), 0.25)
        tensor([[[[0.2500, 0.2500]]]])
    """
    return pgd(model, images, labels, eps, normalization, steps=1, step=eps)


def pgd(
    model: Model,
    images: Tensor,
    labels: Tensor,
    eps: float = 8 / 255,
    normalization: Normalization | None = None,
    *,
    steps: int = 10,
    step: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Take ``steps`` signed gradient steps from a random start, staying within ``eps`` of the image.

    Args:
        model: See :func:`fgsm`.
        images: See :func:`fgsm`.
        labels: See :func:`fgsm`.
        eps: Largest change of a pixel, where white is 1.
        normalization: See :func:`fgsm`.
        steps: Number of steps.
        step: Size of a step; None for ``eps / 4``, that is 2/255 for 8/255.
        generator: Source of the random start, on the CPU; None starts at the image itself.

    Returns:
        See :func:`fgsm`.

    Source: Madry et al., *Towards Deep Learning Models Resistant to Adversarial Attacks*, ICLR 2018.
    """
    space, step = normalization or IN_PIXELS, eps / 4 if step is None else step
    clean = pixels_of(images, normalization, "FGSM or PGD").detach()
    low, high = (clean - eps).clamp(0, 1), (clean + eps).clamp(0, 1)
    pixels = clean
    if generator is not None:
        start = torch.rand(clean.shape, generator=generator).to(clean.device)
        pixels = (clean + eps * (2 * start - 1)).clamp(0, 1)
    for _ in range(steps):
        moved = pixels + step * _gradient(model, pixels, labels, space).sign()
        pixels = moved.maximum(low).minimum(high)
    return space.normalize(pixels)


def autoattack(
    model: Model,
    images: Tensor,
    labels: Tensor,
    eps: float = 8 / 255,
    normalization: Normalization | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """Run the standard AutoAttack with the package ``pyautoattack``; arguments and result as in :func:`fgsm`.

    With fewer than ten classes all others are targets. With fewer than four the targeted APGD is left out.

    Raises:
        ImportError: The package is not installed.

    Source: Croce and Hein, *Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
    Attacks*, ICML 2020.
    """
    try:
        package = importlib.import_module("pyautoattack")
    except ImportError:
        message = "AutoAttack needs the package pyautoattack: pip install 'mixwell[attack]', or use PGD"
        raise ImportError(message) from None
    space = normalization or IN_PIXELS
    pixels = pixels_of(images, normalization, "AutoAttack").detach()
    with torch.no_grad():
        classes = model(images[:1]).shape[1]
    attack = package.AutoAttack(
        lambda inputs: model(space.normalize(inputs)), norm="Linf", eps=eps, seed=seed, device=pixels.device
    )
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    if classes < 4:  # the targeted loss compares four logits
        attack.attacks_to_run = ["apgd-ce", "fab-t", "square"]
    return space.normalize(attack.run_standard_evaluation(pixels, labels, batch_size=len(pixels))[0])


def _gradient(model: Model, pixels: Tensor, labels: Tensor, space: Normalization) -> Tensor:
    """Return the gradient of the summed cross-entropy with respect to the pixels."""
    with torch.enable_grad():
        pixels = pixels.detach().requires_grad_()
        loss = F.cross_entropy(model(space.normalize(pixels)).float(), labels, reduction="sum")
        return torch.autograd.grad(loss, pixels)[0]
