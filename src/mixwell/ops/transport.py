"""Move salient cells of an image to places where the mask shows the image."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def cell_distances(cells: int, device: torch.device) -> Tensor:
    """Return squared distances between the cells of a grid, of neighbours on a side that is one long.

    Returns:
        Shape ``(cells ** 2, cells ** 2)``, float32; kept, so not to be written.
    """
    place = torch.arange(cells, device=device, dtype=torch.float32)
    apart = (place[:, None] - place).square_() / max(cells - 1, 1) ** 2
    return (apart[:, None, :, None] + apart[None, :, None, :]).reshape(cells**2, cells**2)


def transport_costs(saliency: Tensor, shown: Tensor, eps: float) -> Tensor:
    """Return the cost of showing each cell in each place.

    Args:
        saliency: Shape ``(N, cells, cells)``.
        shown: Where the image is shown, shape ``(N, cells, cells)``, bool.
        eps: Cost of distance, in units of saliency; the length of a side is 1.

    Returns:
        Cost of moving cell i to j, ``eps * distance - saliency[i] * shown[j]``, shape ``(N, cells ** 2, cells ** 2)``.
    """
    distance = cell_distances(saliency.shape[1], saliency.device)
    loss = saliency.flatten(1)[:, :, None] * -shown.flatten(1)[:, None].to(saliency.dtype)
    return loss.add_(eps * distance)


def proposals(costs: Tensor, rounds: int) -> Tensor:
    """Assign cells to places by rounds of proposals, the published heuristic.

    In each round every cell proposes to its cheapest place, every place accepts the cheapest proposal, and the cost of
    that place rises by 1 for the cells that were refused. A place whose cheapest proposal costs 0 or more accepts none,
    unless that cell comes before the first cell that did not propose to it, because the published code takes the
    minimum of a column that holds zeros for those.

    Args:
        costs: Shape ``(N, M, M)``, from cells to places; not written.
        rounds: Rounds.

    Returns:
        Cell that every place accepted in the last round, shape ``(N, M)``, int64, -1 for none. No cell is accepted
        twice.

    Source: Kim et al., *Puzzle Mix*, ICML 2020.

    Example:
        >>> proposals(torch.tensor([[[-2.0, -1.5], [-3.0, -1.0]]]), rounds=2)
        tensor([[1, 0]])
    """
    costs = costs.clone()
    place, refused = _proposed(costs)
    for _ in range(rounds - 1):
        costs.scatter_add_(2, place[..., None], refused[..., None].to(costs.dtype))
        place, refused = _proposed(costs)
    cells = torch.where(refused, -1, torch.arange(place.shape[1], device=place.device))
    return torch.full_like(place, -1).scatter_reduce_(1, place, cells, "amax")


def _proposed(costs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the place that every cell proposes to, and whether it is refused, shape (N, M) each."""
    offer, place = costs.min(2)
    return place, _winners(offer, place) != torch.arange(place.shape[1], device=place.device)


def _winners(offer: Tensor, place: Tensor) -> Tensor:
    """Return for every cell which cell its place accepts, or -1 or M for none."""
    n, m = place.shape
    cells = torch.arange(m, device=place.device).expand(n, m)
    # The first cell that did not propose to a place counts as a proposal of cost 0.
    together = (
        (place == place[:, :1]).long().cumprod(1).sum(1, keepdim=True)
    )  # proposed as the first cell did, from it on
    bystander = torch.zeros_like(place).scatter_(1, place[:, :1], together)
    nothing = torch.where(bystander < m, 0.0, torch.inf).to(offer.dtype)
    least = nothing.scatter_reduce(1, place, offer, "amin")
    first = torch.where(least == nothing, bystander, m)
    first = first.scatter_reduce(1, place, torch.where(offer == least.gather(1, place), cells, m), "amin")
    return first.gather(1, place)


def staying(taken: Tensor) -> Tensor:
    """Replace -1 by the place's own cell, as :class:`PatchPlan` needs it, shape ``(N, M)``."""
    return torch.where(taken < 0, torch.arange(taken.shape[1], device=taken.device), taken)


def plan_matrix(taken: Tensor) -> Tensor:
    """Write a partial permutation as a matrix from cells to places, shape ``(N, M, M)``, bool."""
    return torch.arange(taken.shape[1], device=taken.device)[:, None] == taken[:, None]
