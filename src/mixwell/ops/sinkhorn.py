"""Entropic optimal transport between two sets of points, and mixing one set with the other brought into line."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared Euclidean distance of every point of ``a`` to every point of ``b``, in float32.

    Needs memory for the distances only, not for the differences of all pairs.

    Args:
        a: Shape ``(B, P, D)``.
        b: Shape ``(B, Q, D)``.

    Returns:
        Shape ``(B, P, Q)``, at least zero.

    Example:
        >>> squared_distances(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
        tensor([[[25.,  1.]]])
    """
    with torch.autocast(a.device.type, enabled=False):
        a, b = a.float(), b.float()
        lengths = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None]
        return torch.baddbmm(lengths, a, b.transpose(1, 2), alpha=-2).clamp_min(0)


def log_transport(
    cost: Tensor, eps: float = 0.1, iterations: int = 50, tolerance: float | None = None
) -> tuple[Tensor, int]:
    """Run Sinkhorn's iteration between uniform marginals, in the logarithmic domain.

    Args:
        cost: Shape ``(B, P, Q)``, float32.
        eps: Weight of the entropy, positive, in the unit of the cost; small values bring the plan close to a
            permutation, and need more iterations.
        iterations: How many; with a tolerance the most that there may be.
        tolerance: Stop after the iteration that changed the row potentials by less than this, summed over the rows and
            averaged over the batch. ``None`` runs all iterations and never waits for the device.

    Returns:
        The logarithm of P times the plan, shape ``(B, P, Q)``, and how many iterations were run. The last half step
        was the columns': they have the right sum, rows have it as the iteration converges.

    Source: Cuturi, *Sinkhorn Distances: Lightspeed Computation of Optimal Transport*, NeurIPS 2013 (arXiv:1306.0895).

    Example:
        >>> log_plan, _ = log_transport(torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]))
        >>> log_plan.exp().round(decimals=3)
        tensor([[[1., 0.],
                 [0., 1.]]])
    """
    gain = -cost / eps  # potentials are kept in units of eps
    rows, columns = -math.log(cost.shape[1]), -math.log(cost.shape[2])
    v = torch.zeros_like(gain[:, :1])
    u = torch.zeros_like(gain[:, :, :1])
    done = 0
    while done < iterations:
        done += 1
        before, u = u, rows - (gain + v).logsumexp(2, keepdim=True)
        v = columns - (gain + u).logsumexp(1, keepdim=True)
        if tolerance is not None and eps * (u - before).abs().sum((1, 2)).mean() < tolerance:
            break
    return gain + u + v - rows, done


def mix_aligned(a: Tensor, b: Tensor, lam: Tensor, backwards: Tensor, log_plan: Tensor, exact: bool = True) -> Tensor:
    """Mix two sets of points after one of them has been brought into line with the other.

    Forwards every point of ``a`` is mixed with the average of ``b`` that the plan sends it to; backwards every point of
    ``b`` with that of ``a``.

    Args:
        a: Anchors, shape ``(B, P, D)``.
        b: Partners, shape ``(B, P, D)``.
        lam: The anchor's share, shape ``(B,)`` or ``(1,)``.
        backwards: Direction, bool of shape ``(B,)`` or ``(1,)``.
        log_plan: What :func:`log_transport` returns.
        exact: Make averages of the weights whether the iteration has converged or not; ``False`` takes the plan as it
            is, as published.

    Returns:
        Mixed points, shape ``(B, P, D)``.

    Example:
        >>> a, b = torch.tensor([[[0.0], [1.0]]]), torch.tensor([[[1.0], [0.0]]])
        >>> log_plan, _ = log_transport(squared_distances(a, b))
        >>> mix_aligned(a, b, torch.tensor([0.5]), torch.tensor([False]), log_plan).round(decimals=3)
        tensor([[[0.],
                 [1.]]])
    """
    turn, lam = backwards[:, None, None], lam[:, None, None].to(a.dtype)
    toward = torch.where(turn, log_plan.transpose(1, 2), log_plan)
    weights = (toward.softmax(2) if exact else toward.exp()).to(a.dtype)
    aligned = torch.bmm(weights, torch.where(turn, a, b)).to(a.dtype)
    return torch.lerp(torch.where(turn, b, aligned), torch.where(turn, aligned, a), lam)
