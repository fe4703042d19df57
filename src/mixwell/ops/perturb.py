"""Adversarial noise."""

from __future__ import annotations

from torch import Tensor


def adversarial_noise(start: Tensor, gradient: Tensor, epsilon: float, step: float | None = None) -> Tensor:
    """Take one long step up the loss from a random start, and stay within ``epsilon`` of the clean image.

    Args:
        start: Noise with which the gradient was taken, for pixels in [0, 1], shape ``(B, C, H, W)``.
        gradient: Of the loss with respect to the noisy images.
        epsilon: Largest change of a pixel.
        step: Length of the step; ``None`` is ``epsilon + 2 / 255``, as published.

    Returns:
        Noise to add; the caller keeps the sum in [0, 1].

    Source: Wong et al., *Fast is better than free: Revisiting adversarial training*, ICLR 2020.

    Example:
        >>> import torch
        >>> adversarial_noise(torch.tensor([-0.010, 0.015]), torch.tensor([3.0, -0.1]), epsilon=0.02)
        tensor([ 0.0178, -0.0128])
    """
    step = epsilon + 2 / 255 if step is None else step
    return (start + step * gradient.sign()).clamp(-epsilon, epsilon)
