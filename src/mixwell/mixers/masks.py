"""What is done to a predicted mask before images are mixed by it."""

from __future__ import annotations

import torch
from torch import Tensor


def near_pure(lam: Tensor, margin: float) -> Tensor:
    """Tell where a source is wanted for nearly all or nearly nothing of an image.

    Args:
        lam: Wanted shares, shape ``(B, K)``.
        margin: How near to 0 or 1 is near, in [0, 1/2].

    Returns:
        Shape ``(B,)``, bool.

    Example:
        >>> near_pure(torch.tensor([[0.05, 0.95], [0.4, 0.6], [0.5, 0.48]]), margin=0.08)
        tensor([ True, False, False])
    """
    return ((lam <= margin) | (lam >= 1 - margin)).any(1)


def even_where(pure: Tensor, shares: Tensor, lam: Tensor) -> Tensor:
    """Replace masks by one ratio for all pixels, which is plain MixUp.

    Args:
        pure: Which samples, shape ``(B,)``, bool.
        shares: Predicted shares, shape ``(B, K, H, W)``.
        lam: Wanted shares, shape ``(B, K)``.

    Example:
        >>> even_where(torch.tensor([True]), torch.rand(1, 1, 1, 2), torch.tensor([[0.05]]))
        tensor([[[[0.0500, 0.0500]]]])
    """
    even = lam.to(shares.dtype)[:, :, None, None]
    return torch.where(pure[:, None, None, None], even, shares)


def adjusted(share: Tensor, lam: Tensor) -> Tensor:
    """Scale the anchor's share, or the partner's where the anchor has too little, so that its mean is the wanted one.

    Args:
        share: The anchor's share, shape ``(B, 1, H, W)``.
        lam: The wanted mean, shape ``(B,)``.

    Returns:
        The same shape; every value stays in [0, 1].

    Example:
        >>> adjusted(torch.tensor([[[[0.2, 0.6]]]]), torch.tensor([0.2])).flatten()
        tensor([0.1000, 0.3000])
    """
    wanted = lam[:, None, None, None]
    mean = share.clamp(1e-8, 1 - 1e-8).mean((1, 2, 3), keepdim=True).clamp(1e-6, 1 - 1e-6)
    less, more = share * (wanted / mean), 1 - (1 - share) * ((1 - wanted) / (1 - mean))
    return torch.where(mean > wanted, less, more).clamp(0, 1)
