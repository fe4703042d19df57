"""Label the cells of grids so that neighbours agree: a batch of graph cuts at once, on any device.

A label l of K is split into K nested yes-no decisions u_1 >= ... >= u_K, u_k meaning l >= k. A convex cost of the
difference of two labels then is a sum of costs of pairs of decisions, the relaxation of which to [0, 1] is tight: a
primal-dual method solves it with a handful of operations per iteration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mixwell.ops.puzzle import Costs

STEP = 4 / 3  # the largest product of the two step lengths, relative to the plain bound, for which the method converges
LONGER = 2.0  # decisions take longer steps by this, duals shorter ones: a third fewer iterations than even steps
CUTS = 17  # levels: neighbours that hang together rise or sink as a whole, so slowly that 0.5 may be the wrong one


def quadratic(labels: int) -> tuple[float, ...]:
    """Return the square of the difference of two shares, for labels that differ by 0, 1, ..."""
    return tuple((d / (labels - 1)) ** 2 for d in range(labels))


def truncated(labels: int) -> tuple[float, ...]:
    """Return the same cut off after two decimals, as the solver of the published code does."""
    return tuple(100 * d * d // (labels - 1) ** 2 / 100 for d in range(labels))


def steps(profile: Sequence[float]) -> list[float]:
    """Return c with ``profile[d] = sum over j < d of (d - j) * c[j]``: what a pair of decisions j apart costs."""
    inner = [profile[j + 1] - 2 * profile[j] + profile[j - 1] for j in range(1, len(profile) - 1)]
    return [profile[1], *inner]


def energy(labels: Tensor, costs: Costs, profile: Sequence[float] | None = None) -> Tensor:
    """Add up what labels cost.

    Args:
        labels: Shape ``(B, rows, columns)``, int64.
        costs: Of every label in every cell, and weights of the borders, see :data:`~mixwell.ops.puzzle.Costs`.
        profile: Cost of labels that differ by 0, 1, ... on a border of weight one; ``None`` is :func:`quadratic`.

    Returns:
        Shape ``(B,)``.

    Example:
        >>> costs = torch.tensor([[[[1.0, 5.0]], [[3.0, 2.0]]]]), torch.zeros(1, 0, 2), torch.tensor([[[10.0]]])
        >>> energy(torch.tensor([[[0, 1]]]), costs)
        tensor([13.])
    """
    levels = labels.movedim(0, -1)[None].to(costs[0].dtype)
    return _energy(levels, _batch_last(costs), profile or quadratic(costs[0].shape[1]))[0]


def primal_dual(costs: Costs, iterations: int | None = None) -> Tensor:
    """Find labels of (nearly) least energy for a whole batch.

    The cost of neighbours that differ is :func:`quadratic`. The relaxed solution is cut at several levels, and the
    cheapest cut is kept.

    Args:
        costs: Of every label in every cell, and weights of the borders, see :data:`~mixwell.ops.puzzle.Costs`.
        iterations: Steps of the primal-dual method; ``None`` takes 8 per cell of the longer side, and at least 60:
            information has to cross the whole grid.

    Returns:
        Labels, shape ``(B, rows, columns)``, int64.

    Source: Chambolle and Pock, *A first-order primal-dual algorithm for convex problems with applications to imaging*,
        2011;
    Pock and Chambolle, *Diagonal preconditioning for first order primal-dual algorithms in convex optimization*, ICCV
    2011; Ishikawa, *Exact optimization for Markov random fields with convex priors*, 2003.

    Example:
        >>> costs = torch.tensor([[[[1.0, 5.0]], [[3.0, 2.0]]]]), torch.zeros(1, 0, 2), torch.tensor([[[10.0]]])
        >>> primal_dual(costs)
        tensor([[[1, 1]]])
    """
    profile = quadratic(costs[0].shape[1])
    iterations = max(60, 8 * max(costs[0].shape[2:])) if iterations is None else iterations
    costs = _batch_last(costs)
    return _cut(_relaxed(costs, steps(profile), iterations), costs, profile).movedim(-1, 0).long()


def _batch_last(costs: Costs) -> Costs:
    """Move the batch to the innermost dimension, where it fills the vector units however small the grid."""
    unary, vertical, horizontal = (each.movedim(0, -1).contiguous() for each in costs)
    return unary, vertical, horizontal


def _relaxed(costs: Costs, pair: list[float], iterations: int) -> Tensor:
    """Solve the relaxation; steps are scaled by the weights around a cell, so the scale of costs does not matter."""
    k, (unary, *weights) = len(pair), costs
    slopes = unary.diff(dim=0)  # (K, rows, columns, B): the cost of one more step
    u, ahead = torch.full_like(slopes, 0.5), torch.full_like(slopes, 0.5)
    new, pull, around = torch.empty_like(slopes), torch.empty_like(slopes), torch.zeros_like(slopes)
    for dim, weight in enumerate(weights, 1):
        for side in _sides(around, dim):
            side += weight
    reach = 2 * pair[0] + max(sum(pair[1 : j + 1]) + sum(pair[1 : k - j]) for j in range(k))
    rate = around.mul_(reach).clamp_min_(1e-12).reciprocal_().mul_(LONGER)
    borders = [_border(weight, dim, pair, ahead, pull) for dim, weight in enumerate(weights, 1)]
    for _ in range(iterations):
        pull.copy_(slopes)
        for move_duals in borders:
            move_duals()
        nested(torch.addcmul(u, pull, rate, value=-1, out=new))
        torch.lerp(u, new, 2.0, out=ahead)
        u, new = new, u
    return u


def _border(weight: Tensor, dim: int, pair: list[float], ahead: Tensor, pull: Tensor) -> Callable[[], None]:
    """Return what moves the duals of borders along one dimension after ``ahead`` and adds their pull to ``pull``."""
    k = len(pair)
    weight = torch.stack([torch.stack([weight * pair[abs(i - j)] for j in range(k)]) for i in range(k)])
    length = STEP / 2 / LONGER
    dual, flow = torch.zeros_like(weight), torch.empty_like(weight)
    # Yes to i here and no to j there costs where j <= i, and the other way round where j >= i. All views are made
    # once, and bounds are numbers: as tensors they would be slower.
    not_negative, not_positive = [dual[i, :i] for i in range(1, k)], [dual[i, i + 1 :] for i in range(k - 1)]
    here, there = (side.unsqueeze(at) for side, at in zip(_sides(ahead, dim), (1, 0), strict=True))
    out, into = _sides(pull, dim)
    flow_out, flow_in = flow.unbind(1), flow.unbind(0)

    def move_duals() -> None:
        dual.add_(here, alpha=length).sub_(there, alpha=length).clamp_(-1, 1)
        for part in not_negative:
            part.clamp_min_(0)
        for part in not_positive:
            part.clamp_max_(0)
        torch.mul(dual, weight, out=flow)
        for each in flow_out:
            out.add_(each)
        for each in flow_in:
            into.sub_(each)

    return move_duals


def nested(u: Tensor) -> Tensor:
    """Project decisions ``(K, ...)`` onto ``1 >= u_1 >= ... >= u_K >= 0``, in place."""
    k = len(u)
    if k == 2:
        middle = torch.lerp(u[0], u[1], 0.5)
        torch.maximum(u[0], middle, out=u[0])
        torch.minimum(u[1], middle, out=u[1])
    elif k > 2:  # u_k becomes the smallest over i <= k of the largest over j >= k of the mean of u_i to u_j
        total = torch.cat((torch.zeros_like(u[:1]), u.cumsum(0)))
        for i in range(k):
            count = torch.arange(1, k - i + 1, device=u.device).view(-1, *[1] * (u.dim() - 1))
            largest = ((total[i + 1 :] - total[i]) / count).flip(0).cummax(0).values.flip(0)  # of j = i ... K - 1
            u[i:] = torch.minimum(largest, u[i:]) if i else largest
    return u.clamp_(0, 1)


def _sides(grid: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return the first and the second cell of all pairs of neighbours along a dimension."""
    return grid.narrow(dim, 0, grid.shape[dim] - 1), grid.narrow(dim, 1, grid.shape[dim] - 1)


def _cut(relaxed: Tensor, costs: Costs, profile: Sequence[float]) -> Tensor:
    """Round decisions ``(K, rows, columns, B)`` at several levels and return the cheapest labels, of the same type."""
    levels = torch.arange(1, 2 * CUTS, 2, device=relaxed.device, dtype=relaxed.dtype) / (2 * CUTS)
    labels = (relaxed > levels.view(-1, 1, 1, 1, 1)).to(relaxed.dtype).sum(1)  # (CUTS, rows, columns, B)
    best = _energy(labels, costs, profile).argmin(0)
    return labels.gather(0, best.expand_as(labels[:1]))[0]


def _differing(gap: Tensor, profile: Sequence[float]) -> Tensor:
    """Return the profile at differences of labels, which are overwritten."""
    pair = steps(profile)
    cost = gap.abs_() * pair[0]
    for c in pair[1:]:
        cost.add_(gap.sub_(1).clamp_min_(0), alpha=c)
    return cost


def _energy(labels: Tensor, costs: Costs, profile: Sequence[float]) -> Tensor:
    """Return the energy of labels ``(N, rows, columns, B)``, numbers of the costs' type, shape ``(N, B)``."""
    total = torch.zeros_like(labels)
    for label, cost in enumerate(costs[0]):
        total.addcmul_((labels == label).to(cost.dtype), cost)
    total = total.sum((1, 2))
    for dim, weight in enumerate(costs[1:], 1):
        first, second = _sides(labels, dim)
        total += (_differing(first - second, profile).mul_(weight)).sum((1, 2))
    return total
