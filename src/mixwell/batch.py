"""The records that flow: what comes in, what a policy sees, what comes out."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mixwell.checks import check_classes, check_device, check_images, check_labels, check_saliency
from mixwell.normalization import Normalization

if TYPE_CHECKING:
    from mixwell.plan import Plan


class Batch:
    """A checked batch, and the source of every random draw made for it.

    Draws happen where the generator lives and are then sent to the images: a CPU generator therefore gives the same
    plan on every device. Without a generator they happen where the images are.

    Args:
        images: Shape ``(B, C, H, W)``, floating point or uint8.
        labels: Class indices ``(B,)``, or dense labels ``(B, N)``.
        model: The classifier, for saliency sources that look at it.
        saliency: Maps ``(B, h, w)`` known beforehand, of the images' size or coarser, in the same proportions.
        generator: Source of randomness; ``None`` takes torch's default for the device.
        normalization: How float images were normalized; ``None`` means that they are in [0, 1].

    Raises:
        TypeError: Images or labels are not tensors of a usable type.
        ValueError: Shapes do not fit.
    """

    __slots__ = ("generator", "images", "labels", "model", "normalization", "saliency", "source_device")

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        model: torch.nn.Module | Callable[[Tensor], Tensor] | None = None,
        saliency: Tensor | None = None,
        generator: torch.Generator | None = None,
        normalization: Normalization | None = None,
    ) -> None:
        check_images(images)
        check_labels(labels, images.shape[0])
        check_device("labels", labels, images)
        if saliency is not None:
            check_saliency(saliency, images)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise TypeError(f"generator must be a torch.Generator or None, but got {generator!r}.")
        self.images, self.labels, self.model, self.saliency = images, labels, model, saliency
        self.generator, self.normalization = generator, normalization
        self.source_device = images.device if generator is None else generator.device

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.images.shape[2], self.images.shape[3]

    def with_saliency(self, saliency: Tensor | None) -> Batch:
        """Return the same batch with other saliency maps."""
        other = copy(self)
        other.saliency = saliency
        return other

    def ones(self) -> Tensor:
        """Return the ratio that leaves every anchor as it is, shape ``(1,)``."""
        return torch.ones(1, device=self.images.device)

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1)."""
        return self.send(torch.rand(shape, device=self.source_device, generator=self.generator))

    def rand_on_host(self) -> float:
        """Draw one uniform number for a decision in Python; only a generator on a GPU makes that wait."""
        if self.generator is None:
            return float(torch.rand(()))
        return float(torch.rand((), device=self.source_device, generator=self.generator))

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal numbers."""
        return self.send(torch.randn(shape, device=self.source_device, generator=self.generator))

    def randperm(self) -> Tensor:
        """Draw a permutation of the rows, shape ``(B,)``."""
        return self.send(torch.randperm(len(self), device=self.source_device, generator=self.generator))

    def send(self, draw: Tensor) -> Tensor:
        """Bring a draw to the images without waiting for it."""
        return draw if self.source_device == self.images.device else draw.to(self.images.device, non_blocking=True)


class Pairs:
    """What a policy's ``plan`` gets to see: every anchor with its partner.

    Randomness is drawn once for the batch or once for every sample, according to the policy's scope. Where it is drawn
    once, the first dimension ``S`` of ``lam`` and of every draw is 1 instead of B and broadcasts, so that a mask
    shared by the batch is made once; authors never see that switch.

    Attributes:
        partner: Partner of every row, shape ``(B,)``.
        lam: Drawn ratio, the anchor's share, shape ``(S,)``, in [0, 1].
        size: Height and width of the images.
    """

    __slots__ = ("_batch", "_once", "lam", "partner", "size")

    def __init__(
        self,
        partner: Tensor,
        lam: Tensor,
        size: tuple[int, int],
        *,
        batch: Batch | None = None,
        once: Tensor | None = None,
    ) -> None:
        self.partner, self.lam, self.size = partner, lam, size
        self._batch, self._once = batch, once

    def __len__(self) -> int:
        return self.partner.shape[0]

    @property
    def a(self) -> Tensor:
        """Anchors, shape ``(B, C, H, W)``."""
        return self.batch.images

    @property
    def b(self) -> Tensor:
        """Partners, shape ``(B, C, H, W)``: a copy, gathered at every access."""
        return self.batch.images.index_select(0, self.partner)

    @property
    def batch(self) -> Batch:
        """The batch the pairs come from."""
        if self._batch is None:
            raise ValueError("These pairs were made without a batch: they have no images and cannot draw.")
        return self._batch

    @property
    def saliency_a(self) -> Tensor:
        """Saliency of the anchors, shape ``(B, h, w)``."""
        maps = self.batch.saliency
        if maps is None:
            raise ValueError(
                "This policy needs saliency maps, but got none: give it a source (saliency=FineGrained(), say), or "
                "pass saliency= maps of shape (B, h, w) in the call."
            )
        return maps

    @property
    def saliency_b(self) -> Tensor:
        """Saliency of the partners, shape ``(B, h, w)``."""
        return self.saliency_a.index_select(0, self.partner)

    def ratio(self, law: Callable[..., Tensor]) -> Tensor:
        """Draw from another law of the ratio, shape ``(S,)``."""
        batch = self.batch
        return self._share(batch.send(law(self._draws, batch.source_device, batch.generator)))

    def with_lam(self, lam: Tensor) -> Pairs:
        """Return the same pairs with another nominal ratio, for policies that draw something else than ``lam``."""
        return Pairs(self.partner, lam, self.size, batch=self._batch, once=self._once)

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1), shape ``(S, *shape)``."""
        return self._share(self.batch.rand(self._draws, *shape))

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, shape ``(S, *shape)``."""
        return self._share(self.batch.randn(self._draws, *shape))

    @property
    def _draws(self) -> int:
        return self.lam.shape[0]

    def _share(self, draw: Tensor) -> Tensor:
        return draw if self._once is None else draw.index_select(0, self._once)


class MixedBatch:
    """Mixed images, and everything a loss needs to know about where they came from.

    Attributes:
        images: Mixed images, shape ``(B, C, H, W)``.
        labels: Label of each source, class indices of shape ``(B, K)``, or dense labels of shape ``(B, K, N)``.
        weights: How much of each label the image carries, shape ``(B, K)``, float32. Rows usually sum to one.
        plan: Sources ``(B, K)``, nominal ratio ``lam (B,)`` and geometry; ``plan.share(size)`` is every source's
            share of every pixel, shape ``(B, K, H, W)``.
    """

    __slots__ = ("images", "labels", "plan", "weights")

    def __init__(self, images: Tensor, labels: Tensor, weights: Tensor, plan: Plan) -> None:
        self.images, self.labels, self.weights, self.plan = images, labels, weights, plan

    def __len__(self) -> int:
        return self.images.shape[0]

    def __repr__(self) -> str:
        return (
            f"MixedBatch(images={tuple(self.images.shape)} {self.images.dtype}, labels={tuple(self.labels.shape)}, "
            f"weights={tuple(self.weights.shape)}, plan={self.plan!r})"
        )

    def with_weights(self, weights: Tensor) -> MixedBatch:
        """Return the same batch with other label weights, shape ``(B, K)``."""
        return MixedBatch(self.images, self.labels, weights, self.plan)

    def targets(self, num_classes: int, smoothing: float = 0.0, toward: float | None = None) -> Tensor:
        """Build dense targets: the weighted sum of the sources' labels, smoothed once.

        Equal classes add up. Smoothing keeps the total mass of a row, also where weights do not sum to one.

        Args:
            num_classes: Number of classes N.
            smoothing: Share of the mass that is spread, in [0, 1).
            toward: What smoothing pulls every entry to; ``None`` means ``1 / num_classes``. timm's multi-label
                smoothing is ``toward=0.5``.

        Returns:
            Targets, shape ``(B, N)``, float32.

        Raises:
            ValueError: A label is not below ``num_classes`` (class indices are looked at on the CPU only: on a GPU that
                would stall the device), or dense labels have another width.

        Example:
            >>> from mixwell import MixUp, Constant, Roll
            >>> mixed = MixUp(alpha=Constant(0.75), pairing=Roll())(torch.rand(2, 3, 4, 4), torch.tensor([0, 2]))
            >>> mixed.targets(3)
            tensor([[0.7500, 0.0000, 0.2500],
                    [0.2500, 0.0000, 0.7500]])
        """
        check_classes(self.labels, num_classes)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be a share in [0, 1), but got {smoothing}.")
        if self.labels.dim() == 3:
            targets = (self.weights[..., None] * self.labels.float()).sum(1)  # no einsum: autocast would round it
        else:
            targets = self.weights.new_zeros(len(self.labels), num_classes).scatter_add_(1, self.labels, self.weights)
        if not smoothing:
            return targets
        pull = 1 / num_classes if toward is None else toward
        return targets * (1 - smoothing) + smoothing * pull * self.weights.sum(1, keepdim=True)
