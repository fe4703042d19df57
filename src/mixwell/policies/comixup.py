"""Co-Mixup."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell.batch import Batch, Pairs
from mixwell.ops.cells import check_pixels, on_grid, summing_to_one
from mixwell.ops.potts import Potts
from mixwell.plan import BlendPlan, MosaicPlan, Plan
from mixwell.policy import BatchPolicy, SaliencySource, check_source
from mixwell.saliency import InputGradient
from mixwell.typecheck import NonNegativeFloat, PositiveFloat, PositiveInt, Within

FORBIDDEN = 1e12  # cost of a place in a group that has no image
FINEST = 32  # cells per side from which the most salient place of an image is found


class CoMixup(BatchPolicy):
    """Mix the images of a group together: each output shows salient cells of several, and outputs differ.

    A group of m images gives m outputs. Each cell of an output shows one image, so that an energy is small: lost
    saliency, borders between different images, a random preference for some images, and images that the other outputs
    show already. Outputs are improved one after the other, all groups at once, on the images' device.

    Args:
        alpha: Parameter of the Dirichlet distribution from which every group draws its preference.
        group: Largest number of images in a group. A batch is divided into groups of equal size, or with one image
            fewer.
        blocks: Cells per side.
        beta: Weight of borders between different images; published: 0.16 to 0.48.
        gamma: Weight of the cells in which the other outputs show an image.
        threshold: Only images that the other outputs show in more than this share of an image's area count there;
            published: 0.81 to 0.84.
        eta: Weight of the random preference.
        omega: Weight, in [0, 1], of the other images whose most salient places are far away, in that count.
        sweeps: How often all outputs are improved.
        saliency: Saliency source; published: the input gradient; maps are averaged into the cells.

    Raises:
        ValueError: A setting is out of range, there are no saliency maps or, when called, the image is smaller than the
            grid.

    Note:
        The authors minimise the same energy by graph cuts on the CPU, one output after the other. The solver here
        anneals all grids together and comes within 0.1 % of the least energy for the published ``beta``. In their code
        a cell can also show the mean of two images, once an output has two or more; here it shows one image, and labels
        are exactly the shares of the area. As in their code, an output that equals another is moved away from it before
        the last sweep ends. Their recipes add the loss of the unmixed images, which :class:`PerturbedMixing` has as
        ``clean_lam``. A mixed image has as many sources as its group has images, most of them with weight 0, so that
        methods and label policies for two sources refuse it. ``torch.compile`` unrolls all steps of the solver: compile
        the model and not the policy.

    Source: Kim et al., *Co-Mixup: Saliency Guided Joint Mixup with Supermodular Diversity*, ICLR 2021
    (arXiv:2102.03065).

    Example:
        >>> mixed = CoMixup(group=4)(torch.rand(8, 3, 32, 32), torch.arange(8), saliency=torch.rand(8, 32, 32))
        >>> mixed.plan.shares.shape, bool((mixed.plan.shares.amax(1) == 1).all())
        (torch.Size([8, 4, 4, 4]), True)
    """

    alpha: PositiveFloat = 2.0
    group: Annotated[int, Within(2)] = 20
    blocks: PositiveInt = 4
    beta: NonNegativeFloat = 0.32
    gamma: NonNegativeFloat = 1.0
    threshold: NonNegativeFloat = 0.83
    eta: NonNegativeFloat = 0.05
    omega: Annotated[float, Within(0, 1)] = 0.001
    sweeps: PositiveInt = 4
    saliency: SaliencySource | None = InputGradient()

    uses_saliency = True
    two_sources = False

    def __post_init__(self) -> None:
        check_source(self.saliency)

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        own = torch.arange(len(batch), device=batch.device)
        if len(batch) == 1:
            return BlendPlan(Pairs(own, batch.ones(), batch.size))
        pairs = Pairs(own, batch.ones(), batch.size, batch=batch.with_saliency(self._maps(batch)))
        check_pixels(f"CoMixup with {self.blocks} blocks per side", self.blocks, batch.size)
        count = -(-len(batch) // self.group)
        members = torch.arange(-(-len(batch) // count) * count, device=batch.device).view(-1, count)
        known = members < len(batch)  # (m, groups): the last groups may have one image fewer
        maps = pairs.saliency_a.index_select(0, members.clamp_max(len(batch) - 1).flatten())
        maps, preference = maps.unflatten(0, members.shape), self._preference(batch, known)
        cell = (batch.rand(*members.shape) * self.blocks**2).long()
        kind = batch.device.type
        with nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False):  # meta tensors have no autocast
            shown = self.solve(self.costs(maps, preference, known), self.likeness(maps, known), known, cell)
        return self._plan(pairs, shown, preference)

    def _preference(self, batch: Batch, known: Tensor) -> Tensor:
        """Draw how much each group prefers each of its images, shape ``(groups, m)``, rows summing to one."""
        parameters = torch.full(known.shape[::-1], self.alpha, dtype=torch.float64, device=batch.source_device)
        drawn = (batch.send(torch._sample_dirichlet(parameters, batch.generator)) + 1e-8) * known.t()
        return (drawn / drawn.sum(1, keepdim=True)).float()

    def costs(self, maps: Tensor, preference: Tensor, known: Tensor) -> Tensor:
        """Return the cost of showing each image in each cell, ``(cells, groups, m)``; on average -1 without preference.

        Args:
            maps: Saliency, shape ``(m, groups, h, w)``.
            preference: Shape ``(groups, m)``, rows summing to one.
            known: Which images there are, shape ``(m, groups)``, bool.
        """
        gain = self.blocks**2 * summing_to_one(on_grid(maps.flatten(0, 1), self.blocks)).flatten(1)
        gain = gain.unflatten(0, known.shape).permute(2, 1, 0) + self.eta * preference.clamp_min(1e-8).log()
        return torch.where(known.t(), -gain, FORBIDDEN)

    def likeness(self, maps: Tensor, known: Tensor) -> Tensor:
        """Return how much an image counts as another one, ``(groups, m, m)``: 1 as itself, and a little if far away.

        The distance is that between windows of a quarter of each side in which the images are most salient.
        """
        height, width = (min(side, FINEST) for side in maps.shape[2:])
        smooth = F.adaptive_avg_pool2d(maps.flatten(0, 1)[:, None], (height, width))
        smooth = F.avg_pool2d(smooth, (-(-height // 4), -(-width // 4)), stride=1)[:, 0]
        peak = smooth.flatten(1).argmax(1).view(known.shape).t()
        place, here = torch.stack((peak // smooth.shape[2], peak % smooth.shape[2]), 2), known.t()  # (groups, m, 2)
        distance = (place[:, :, None] - place[:, None]).abs().sum(3) * (here[:, :, None] & here[:, None])
        scale = here.sum(1)[:, None, None] / distance.sum((1, 2), keepdim=True).clamp_min(1)
        same = torch.eye(len(known), device=maps.device)
        return (1 - self.omega) * same + self.omega * scale * distance

    def solve(self, costs: Tensor, likeness: Tensor, known: Tensor, cell: Tensor) -> Tensor:
        """Return which image every output of every group shows in every cell, one-hot, ``(m, cells, groups, m)``.

        Args:
            costs: See :meth:`costs`.
            likeness: See :meth:`likeness`.
            known: See :meth:`costs`.
            cell: A random cell for every output, whose image it gives up if another output is the same, shape
                ``(m, groups)``.
        """
        area, count = costs.shape[0], costs.shape[2]
        potts = Potts(self.blocks, count, self.beta, costs.device)
        shown = costs.new_zeros(count, *costs.shape)
        for sweep in range(self.sweeps):
            for output in range(count):
                others = shown.sum((0, 1)) - shown[output].sum(0)  # cells of each image, (groups, m)
                crowded = torch.einsum("gij,gj->gi", likeness, others)
                now = costs + 2 * self.gamma * crowded * (crowded > self.threshold * area)
                if 0 < sweep == self.sweeps - 1:
                    now = now + self.gamma * area * given_up(shown, output, cell[output])
                start = shown[output] if sweep else potts.cheapest(now)
                shown[output] = potts.solve(now, start) * known[output][:, None]
        return shown

    def _plan(self, pairs: Pairs, shown: Tensor, preference: Tensor) -> MosaicPlan:
        """Order the images of each group from the anchor on, which is row ``member * groups + group`` of the batch."""
        own, (count, _, groups, _) = pairs.partner, shown.shape
        turn = (own // groups)[:, None] + torch.arange(count, device=own.device)
        turn = turn % count
        sources = turn * groups + (own % groups)[:, None]
        sources = torch.where(sources < len(own), sources, own[:, None])  # a place without an image has no share
        shares = shown.permute(0, 2, 3, 1).flatten(0, 1)[: len(own)]  # (B, m, cells)
        shares = shares.gather(1, turn[:, :, None].expand_as(shares)).unflatten(2, (self.blocks, self.blocks))
        ratios = preference[own % groups].gather(1, turn)
        return MosaicPlan(Pairs(sources[:, 1:], ratios[:, 0], pairs.size, batch=pairs.batch), shares, ratios)


def given_up(shown: Tensor, output: int, cell: Tensor) -> Tensor:
    """Mark the image that an output shows in a cell if another output is the same, shape ``(groups, m)``, else none."""
    twins = (shown == shown[output]).all(3).all(1).sum(0) > 1  # itself is one of them
    return twins[:, None] * shown[output, cell, torch.arange(len(cell), device=cell.device)]
