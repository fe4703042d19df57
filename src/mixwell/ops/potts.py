"""Label the cells of grids where labels have no order: a batch of small Potts problems at once, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

TEMPERATURES = (1.0, 0.55, 0.3, 0.165, 0.09, 0.05)  # of the annealing, for costs of about 1 per cell
PASSES = 2  # over all cells, one half of the checkerboard after the other
KEEP = 1e15  # larger than any cost


class Potts:
    """Square grids in which neighbours with different labels cost ``weight``, and each label costs something per cell.

    Costs and labellings have the shape ``(cells, N, labels)``, the cells row by row; a labelling is one-hot. One matrix
    product then gives the costs of all labels in all cells.

    Args:
        side: Cells per side.
        labels: Number of labels.
        weight: Cost of a border between different labels.
        device: Device of the costs.

    Source: Besag, *On the statistical analysis of dirty pictures*, 1986, for the passes over single cells; Geiger and
    Girosi, *Parallel and deterministic algorithms from MRFs*, 1991, for the annealing.

    Example:
        >>> potts = Potts(2, labels=2, weight=1.0, device="cpu")
        >>> costs = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.5, 0.0]])[:, None]
        >>> potts.solve(costs, potts.cheapest(costs))[:, 0].argmax(1)
        tensor([0, 0, 0, 0])
    """

    def __init__(self, side: int, labels: int, weight: float, device: torch.device | str) -> None:
        line = torch.arange(side, device=device)
        row, column = line.repeat_interleave(side), line.repeat(side)
        distance = (row[:, None] - row).abs() + (column[:, None] - column).abs()
        self.pull = -weight * (distance == 1).float()
        self.one_hot = torch.eye(labels, device=device)
        even, stay = (row + column)[:, None] % 2 == 0, -KEEP * (distance == 0).float()
        self.halves = torch.where(even, self.pull, stay), torch.where(even, stay, self.pull)
        self.temperatures = [max(1.0, weight) * each for each in TEMPERATURES]

    def cheapest(self, costs: Tensor) -> Tensor:
        """Return the labelling that ignores borders."""
        return self.one_hot[costs.argmin(2)]

    def energy(self, costs: Tensor, labelling: Tensor) -> Tensor:
        """Return the cost of labellings, borders included, less a constant; shape ``(N,)``."""
        around = torch.addmm(costs.flatten(1), self.pull, labelling.flatten(1), alpha=0.5).view_as(labelling)
        return (around * labelling).sum((0, 2))

    def solve(self, costs: Tensor, start: Tensor) -> Tensor:
        """Find a labelling of low energy: that of ``start`` or lower.

        Annealing, ``start`` and the best single label are improved cell by cell, and the cheapest result is kept.
        """
        n = costs.shape[1]
        annealed, alone = self._annealed(costs), self.one_hot[costs.sum(0).argmin(1)]
        labelling = torch.cat((annealed, start, alone.expand_as(start)), 1)
        several = costs.repeat(1, 3, 1)
        for half in PASSES * self.halves:
            labelling = self.cheapest(self._moved(several, half, labelling))
        best = self.energy(several, labelling).view(3, n).argmin(0)
        return labelling.unflatten(1, (3, n))[:, best, torch.arange(n, device=costs.device)]

    def _annealed(self, costs: Tensor) -> Tensor:
        """Return the labelling that a falling temperature leads to, all cells changing together."""
        soft = (costs / -self.temperatures[0]).softmax(2)
        for temperature in self.temperatures:
            soft = self._moved(costs, self.pull, soft, -1 / temperature).softmax(2)
        return self.one_hot[soft.argmax(2)]

    def _moved(self, costs: Tensor, around: Tensor, labelling: Tensor, scale: float = 1.0) -> Tensor:
        """Return the scaled costs of all labels in all cells, given those of the other cells."""
        found = torch.addmm(costs.flatten(1), around, labelling.flatten(1), beta=scale, alpha=scale)
        return found.view_as(costs)
