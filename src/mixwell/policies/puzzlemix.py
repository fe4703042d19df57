"""PuzzleMix."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from mixwell.batch import Pairs
from mixwell.normalization import pixels_of
from mixwell.ops.cells import check_pixels, on_grid, summing_to_one
from mixwell.ops.graphcut import primal_dual
from mixwell.ops.pixels import scaled
from mixwell.ops.puzzle import Costs, contrast, puzzle_costs
from mixwell.ops.transport import proposals, staying, transport_costs
from mixwell.plan import MaskPlan, PatchPlan
from mixwell.policy import Policy, SaliencySource
from mixwell.saliency import InputGradient
from mixwell.typecheck import NonNegativeFloat, PositiveInt, Within


class PuzzleMix(Policy):
    """Choose a share for every cell of a grid so that both images' salient cells show, and move salient cells there.

    The grid of shares minimises an energy: lost saliency, borders between unequal shares weighted by the contrast of
        the
    images there, and a prior around the drawn ratio. All pairs of a batch are solved at once,
    on the images' device.

    Args:
        alpha: Distribution of the prior's ratio.
        pairing: See :class:`Policy`.
        scope: Whether that ratio is drawn for the batch, as published, or for every pair; masks differ in any case.
        blocks: Cells per side, a number or several of which each batch draws one. Published: 2, 4, 8 or 16.
        labels: Shares that a cell may have: 0, 1 / (labels - 1), ..., 1.
        beta: Weight of borders between unequal shares; 1.5 in the authors' fast ImageNet recipe.
        gamma: Share of that weight that depends on the contrast at the border.
        eta: Weight of the prior.
        neighbourhood: Pixels that are averaged in either direction before both sides of a border are compared.
        transport: Move cells. Both sides of the images must then be a multiple of the cells.
        transport_eps: Cost of distance; the side of the image is 1, saliency sums to 1.
        transport_cells: Cells per side that move, a multiple of all ``blocks`` that it exceeds; ``None`` moves the
            blocks themselves. The authors use 8 on CIFAR (4 pixels), ``None`` elsewhere.
        saliency: Saliency source; published: the input gradient; maps are averaged into the cells.
        iterations: Steps of the solver; ``None`` chooses by the size of the grid: 60 up to 7 cells per side, 128 for
            16.

    Raises:
        ValueError: A setting is out of range, there are no saliency maps or, when called, the image is smaller than
            the grid or is not a multiple of the cells that move.

    Note:
        The authors cut one image after the other on the CPU, with costs rounded to whole numbers; the solver here
        works on all at once and comes within 1e-3 of the least energy, which
        :class:`mixwell.integrations.scipy.ExactPuzzleMix` finds. A place that no cell is assigned to is empty in
        their code and keeps its own cell here; this concerns only places that are not shown or have no saliency.
        Negative border weights, which only values outside [0, 1] can give, are set to 0. Where ``neighbourhood``
        does not divide a cell, the next smaller divisor of its side is used. Adversarial noise changes images but not
        the mask: :class:`PerturbedMixing` adds it to any policy, and has the weight of the clean images' loss,
        ``clean_lam``, too. Cost grows with ``blocks``: on one core, 100 images of 32 pixels take about 14 times as
        long with 16 as with 8, and 16 images of 224 pixels two to three times.

    Source: Kim et al., *Puzzle Mix: Exploiting Saliency and Local Statistics for Optimal Mixup*, ICML 2020
    (arXiv:2009.06962).

    Example:
        >>> mixed = PuzzleMix(blocks=4)(torch.rand(8, 3, 32, 32), torch.arange(8), saliency=torch.rand(8, 32, 32))
        >>> mixed.plan.mask.shape, mixed.plan.moves.shape
        (torch.Size([8, 1, 4, 4]), torch.Size([8, 2, 16]))
    """

    blocks: PositiveInt | tuple[PositiveInt, ...] = (2, 4, 8, 16)
    labels: Annotated[int, Within(2)] = 3
    beta: NonNegativeFloat = 1.2
    gamma: NonNegativeFloat = 0.5
    eta: NonNegativeFloat = 0.2
    neighbourhood: PositiveInt = 4
    transport: bool = True
    transport_eps: NonNegativeFloat = 0.8
    transport_cells: PositiveInt | None = None
    saliency: SaliencySource | None = InputGradient()
    iterations: PositiveInt | None = None

    uses_saliency = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not _several(self.blocks):
            raise ValueError("blocks must hold at least one number of blocks per side, but is empty.")
        finer = self.transport_cells or 1
        if any(finer % n for n in _several(self.blocks) if n < finer):
            raise ValueError(
                f"transport_cells must be a multiple of the blocks, {self.blocks}, but got {self.transport_cells}."
            )

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        several = _several(self.blocks)
        for cells in several:  # all of them, so that no later step fails
            self._check_size(pairs.size, cells, self._moved(cells))
        index = int(pairs.batch.rand_on_host() * len(several)) if len(several) > 1 else 0
        cells = list(several)[index]
        found = self.solve(self.costs(pairs, cells))
        # With a ratio of 0 or 1 only one label is allowed.
        lam = pairs.lam[:, None, None]
        mask = torch.where((lam == 0) | (lam == 1), lam, found / (self.labels - 1))[:, None]
        if not self.transport:
            return MaskPlan(pairs, mask)
        return PatchPlan(pairs, mask, self._moves(pairs, scaled(mask, (self._moved(cells),) * 2)[:, 0]))

    def costs(self, pairs: Pairs, cells: int) -> Costs:
        """Return the costs of labels on a grid of this many cells per side, as :func:`puzzle_costs` does."""
        saliency = summing_to_one(on_grid(pairs.saliency_a.float(), cells))
        both = saliency, saliency.index_select(0, pairs.partner)
        images = scaled(pairs.batch.images, tuple(-(-side // cells) * cells for side in pairs.size))
        images = pixels_of(images, pairs.batch.normalization, "PuzzleMix")
        borders = contrast(images, pairs.partner, cells, self.neighbourhood)
        return puzzle_costs(both, borders, pairs.lam, self.labels, self.beta, self.gamma, self.eta)

    def solve(self, costs: Costs) -> Tensor:
        """Find labels ``(B, cells, cells)`` of minimal energy for :data:`~mixwell.ops.puzzle.Costs`."""
        return primal_dual(costs, self.iterations)

    def assign(self, costs: Tensor, shown: Tensor) -> Tensor:
        """Assign cells to places, -1 for none, shape ``(N, cells ** 2)``.

        Args:
            costs: Cost of showing a cell in a place, shape ``(N, cells ** 2, cells ** 2)``.
            shown: Which places show the image at all, shape ``(N, cells, cells)``, bool.
        """
        return proposals(costs, shown.shape[1])

    def _moves(self, pairs: Pairs, mask: Tensor) -> Tensor:
        """Return which cell every place shows, of anchors and partners, (B, 2, cells ** 2)."""
        cells = mask.shape[1]
        saliency = summing_to_one(on_grid(pairs.saliency_a.float(), cells))
        saliency = torch.cat((saliency, saliency.index_select(0, pairs.partner)))
        shown = torch.cat((mask > 0, mask < 1))
        costs = transport_costs(saliency, shown, self.transport_eps)
        return staying(self.assign(costs, shown)).view(2, len(pairs), -1).transpose(0, 1)

    def _moved(self, cells: int) -> int:
        """Return how many cells a side are moved where masks have this many."""
        return max(cells, self.transport_cells or 0)

    def _check_size(self, size: tuple[int, int], cells: int, moved: int) -> None:
        height, width = size
        check_pixels(f"PuzzleMix with {cells} blocks per side", cells, size)
        if self.transport and (height % moved or width % moved):
            raise ValueError(
                f"Moving {moved} x {moved} cells needs sides that {moved} divides, but got {height} x {width}: set "
                "other blocks, or transport=False."
            )


def _several(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else value
