"""Pairings: which partner every anchor is mixed with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field

import torch
from torch import Tensor

from mixwell.batch import Batch
from mixwell.ops.cycles import longest_steps
from mixwell.typecheck import PositiveFloat
from mixwell.value import Value, set_field


class Pairing(Value, ABC):
    """Chooses a partner for every image of a batch.

    ``involutive`` is True if the partner of the partner is the anchor, which scope ``"pair"`` needs.
    """

    involutive = False

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor:
        """Return the partner of every row, shape ``(B,)``, int64."""


class Permutation(Pairing):
    """A random permutation; an image may be its own partner (in 63 % of batches at least one is).

    Example:
        >>> sorted(Permutation()(Batch(torch.rand(4, 3, 8, 8), torch.arange(4))).tolist())
        [0, 1, 2, 3]
    """

    def __call__(self, batch: Batch) -> Tensor:
        rows = torch.randperm(batch.images.shape[0], device=batch.source_device, generator=batch.generator)
        return rows if rows.device == batch.images.device else batch.send(rows)


class Derangement(Pairing):
    """A random permutation without fixed points: one step of random length along a random cycle.

    In a batch of one the image is its own partner.

    Example:
        >>> partner = Derangement()(Batch(torch.rand(5, 3, 8, 8), torch.arange(5)))
        >>> bool((partner == torch.arange(5)).any())
        False
    """

    def __call__(self, batch: Batch) -> Tensor:
        n = len(batch)
        order = batch.randperm()
        step = (batch.rand(1) * (n - 1)).long() + 1
        ahead = (torch.arange(n, device=order.device) + step) % n
        return torch.empty_like(order).scatter_(0, order, order[ahead])


class Roll(Pairing):
    """The row ``shift`` positions before, as in torchvision (with ``shift=1``); needs shuffled data.

    Args:
        shift: Number of rows.

    Example:
        >>> Roll()(Batch(torch.rand(3, 3, 8, 8), torch.arange(3)))
        tensor([2, 0, 1])
    """

    shift: int = field(default=1, kw_only=False)

    def __call__(self, batch: Batch) -> Tensor:
        n = len(batch)
        return (torch.arange(n, device=batch.device) - self.shift % n) % n


class Reverse(Pairing):
    """Row *i* with row *B - 1 - i*, as in timm; the middle row of an odd batch is its own partner.

    Example:
        >>> Reverse()(Batch(torch.rand(3, 3, 8, 8), torch.arange(3)))
        tensor([2, 1, 0])
    """

    involutive = True

    def __call__(self, batch: Batch) -> Tensor:
        return torch.arange(len(batch) - 1, -1, -1, device=batch.device)


class Given(Pairing):
    """Fixed partners.

    Args:
        partner: Partner of every row.

    Raises:
        ValueError: The batch has another length, or a partner is not one of its rows.

    Example:
        >>> Given([1, 0, 2])(Batch(torch.rand(3, 3, 8, 8), torch.arange(3)))
        tensor([1, 0, 2])
    """

    partner: tuple[int, ...] = field(default=(), kw_only=False)

    def __post_init__(self) -> None:
        set_field(self, "partner", tuple(int(p) for p in self.partner))

    def __call__(self, batch: Batch) -> Tensor:
        n = len(batch)
        if len(self.partner) != n:
            raise ValueError(
                f"Given has {len(self.partner)} partners, but the batch has {n} images: give one for each."
            )
        if not all(0 <= p < n for p in self.partner):
            raise ValueError(f"Given needs partners between 0 and {n - 1}, but got {self.partner}.")
        return torch.tensor(self.partner).to(batch.device, non_blocking=True)


class Greedy(Pairing):
    """One cycle through the batch, from each image to the unvisited one whose saliency differs most.

    Only for policies with a saliency source; the distance is Euclidean.

    Source: Kang and Kim, *GuidedMixup: An Efficient Mixup Strategy Guided by Saliency Maps*, AAAI 2023
        (arXiv:2306.16612).

    Raises:
        ValueError: The batch has no saliency maps.

    Example:
        >>> images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
        >>> sorted(Greedy()(Batch(images, labels, saliency=torch.rand(4, 8, 8))).tolist())
        [0, 1, 2, 3]
    """

    def __call__(self, batch: Batch) -> Tensor:
        if batch.saliency is None:
            raise ValueError("Greedy needs saliency maps, but got none: use it in a policy with a saliency source.")
        maps = batch.saliency.flatten(1)
        distance = torch.cdist(maps, maps, compute_mode="donot_use_mm_for_euclid_dist")
        return longest_steps(distance.fill_diagonal_(-torch.inf))


class LabelDistance(Pairing):
    """A random partner for every image, more probable the closer its label, for regression (C-Mixup).

    Row *j* is the partner of row *i* with a probability proportional to ``exp(-|y_i - y_j|^2 / (2 sigma^2))``. An image
    is never its own partner, unless it is alone. Labels are numbers ``(B, D)``; class indices ``(B,)`` are
    taken as numbers too, for ordered classes.

    Args:
        sigma: Bandwidth of the Gaussian kernel, positive, in units of the labels.

    Raises:
        ValueError: Sigma is not positive.

    Note:
        The publication draws from the whole data set, where an image is hardly ever its own partner. Here partners come
        from the batch.

    Source: Yao et al., *C-Mixup: Improving Generalization in Regression*, NeurIPS 2022 (arXiv:2210.05775).

    Example:
        >>> ages = torch.tensor([[20.0], [60.0], [21.0], [61.0]])
        >>> LabelDistance(sigma=2.0)(Batch(torch.rand(4, 3, 8, 8), ages))
        tensor([2, 3, 0, 1])
    """

    sigma: PositiveFloat = field(default=1.0, kw_only=False)

    def __call__(self, batch: Batch) -> Tensor:
        n = len(batch)
        labels = batch.labels.float().reshape(n, -1)
        score = (labels[:, None] - labels).square().sum(2) / (-2 * self.sigma**2)
        if n > 1:
            score = score.fill_diagonal_(-torch.inf)
        return (score - (-batch.rand(n, n).log()).log()).argmax(1)  # by Gumbel's trick: no probabilities are needed
