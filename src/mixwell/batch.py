"""The records of one step: the batch that comes in, the pairs that a policy sees, the mixed batch that comes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils import _pytree
from torch.utils.data._utils.collate import default_collate_fn_map

from mixwell.checks import BLENDABLE, check_device, check_generator, check_saliency, images_error, labels_error
from mixwell.normalization import Normalization

if TYPE_CHECKING:
    from mixwell.plan import Plan


def check_images(images: Tensor) -> None:
    """Raise unless images are ``(B, C, H, W)``, none of it 0, of a dtype that can be mixed."""
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.numel() or images.dtype not in BLENDABLE:
        raise images_error(images)
    _, channels, height, width = images.shape
    if width in (1, 3, 4) and channels > 16 and height > 16:  # (B, H, W, C)
        raise images_error(images)


class Batch:
    """A checked batch, and the source of every random draw made for it.

    Numbers are drawn on the generator's device and then moved to the images, so a CPU generator gives the same plan on
    every device. Without a generator they are drawn on the images' device.

    Args:
        images: Shape ``(B, C, H, W)``, floating point or uint8.
        labels: Class indices ``(B,)``, or dense labels ``(B, N)``.
        model: The classifier, for saliency sources that run it.
        saliency: Precomputed maps ``(B, h, w)``, as large as the images or coarser, with the same aspect ratio.
        generator: Random generator; ``None`` uses torch's default generator of the device.
        normalization: How float images were normalized; ``None`` means that they are in [0, 1].

    Raises:
        TypeError: Images or labels are not tensors of a supported dtype.
        ValueError: Shapes or devices do not match.
    """

    __slots__ = (
        "generator",
        "images",
        "labels",
        "model",
        "normalization",
        "saliency",
        "size",
        "source_device",
        "space",
    )

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
        rows = images.shape[0]
        if not (isinstance(labels, Tensor) and labels.dim() in (1, 2) and labels.shape[0] == rows):
            raise labels_error(labels, rows)
        if not (labels.dtype == torch.int64 if labels.dim() == 1 else labels.is_floating_point()):
            raise labels_error(labels, rows)
        if labels.device != images.device:
            check_device("labels", labels, images)
        if saliency is not None:
            check_saliency(saliency, images)
        if generator is not None:
            check_generator(generator)
        self.images, self.labels, self.model, self.saliency = images, labels, model, saliency
        self.generator, self.normalization = generator, normalization
        self.size: tuple[int, int] = (images.shape[2], images.shape[3])  # height and width
        self.space: tuple[int, ...] = self.size  # what masks extend over; AnyShape sets it for signals and volumes
        self.source_device = images.device if generator is None else generator.device

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the images."""
        return self.images.device

    def with_saliency(self, saliency: Tensor | None) -> Batch:
        """Return the same batch with other saliency maps."""
        other = Batch.__new__(Batch)  # torch.compile cannot trace copy() of an object with slots
        for name in Batch.__slots__:
            setattr(other, name, getattr(self, name))
        other.saliency = saliency
        return other

    def ones(self) -> Tensor:
        """Return the ratio 1, which leaves every anchor unchanged, shape ``(1,)``."""
        return torch.ones(1, device=self.images.device)

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1)."""
        return self.send(torch.rand(shape, device=self.source_device, generator=self.generator))

    def rand_on_host(self) -> float:
        """Draw one uniform number as a Python float; only a generator on a GPU has to be waited for."""
        if self.generator is None:
            return float(torch.rand(()))
        return float(torch.rand((), device=self.source_device, generator=self.generator))

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal numbers."""
        return self.send(torch.randn(shape, device=self.source_device, generator=self.generator))

    def randperm(self) -> Tensor:
        """Draw a permutation of the rows, shape ``(B,)``."""
        return self.send(torch.randperm(self.images.shape[0], device=self.source_device, generator=self.generator))

    def send(self, draw: Tensor) -> Tensor:
        """Move a draw to the images' device without waiting for it."""
        return draw if self.source_device == self.images.device else draw.to(self.images.device, non_blocking=True)


class Pairs:
    """The input of a policy's ``plan``: every anchor with its partner.

    Random numbers are drawn once for the batch or once for every sample, according to the policy's scope. If they are
    drawn once, the first dimension ``S`` of ``lam`` and of every draw is 1 instead of B and broadcasts, so a mask that
    the whole batch shares is computed once. A policy is written the same way for both.

    Attributes:
        partner: Partner of every row, shape ``(B,)``.
        lam: Drawn ratio, the anchor's share, shape ``(S,)``, in [0, 1].
        size: Height and width of the images.
        space: Sizes of the dimensions that masks extend over: ``size``, or others for signals and volumes, which
            :class:`mixwell.AnyShape` arranges as images. Their product is that of ``size``.
    """

    __slots__ = ("_batch", "_once", "lam", "partner", "size", "space")

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
        self.space: tuple[int, ...] = size if batch is None else batch.space

    def __len__(self) -> int:
        return self.partner.shape[0]

    @property
    def a(self) -> Tensor:
        """Anchors, shape ``(B, C, H, W)``."""
        return self.batch.images

    @property
    def b(self) -> Tensor:
        """Partners, shape ``(B, C, H, W)``; every access gathers a new copy."""
        return self.batch.images.index_select(0, self.partner)

    @property
    def batch(self) -> Batch:
        """The batch that the pairs come from."""
        if self._batch is None:
            raise ValueError("These pairs were created without a batch, so they have no images and cannot draw.")
        return self._batch

    @property
    def saliency_a(self) -> Tensor:
        """Saliency of the anchors, shape ``(B, h, w)``."""
        maps = self.batch.saliency
        if maps is None:
            raise ValueError(
                "This policy needs saliency maps, but got none: give it a source, for example saliency=FineGrained(), "
                "or pass saliency= maps of shape (B, h, w) in the call."
            )
        return maps

    @property
    def saliency_b(self) -> Tensor:
        """Saliency of the partners, shape ``(B, h, w)``."""
        return self.saliency_a.index_select(0, self.partner)

    def ratio(self, distribution: Callable[..., Tensor]) -> Tensor:
        """Draw from another distribution of the ratio, shape ``(S,)``."""
        batch = self.batch
        return self._share(batch.send(distribution(len(self.lam), batch.source_device, batch.generator)))

    def with_lam(self, lam: Tensor) -> Pairs:
        """Return the same pairs with another nominal ratio, for policies that do not draw ``lam`` itself."""
        return Pairs(self.partner, lam, self.size, batch=self._batch, once=self._once)

    def rand(self, *shape: int) -> Tensor:
        """Draw uniform numbers in [0, 1), shape ``(S, *shape)``."""
        return self._share(self.batch.rand(len(self.lam), *shape))

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal numbers, shape ``(S, *shape)``."""
        return self._share(self.batch.randn(len(self.lam), *shape))

    def _share(self, draw: Tensor) -> Tensor:
        return draw if self._once is None else draw.index_select(0, self._once)


class MixedBatch:
    """Mixed images with the labels of their K sources and the weight of each label.

    It is a node of torch's pytree, pickles, and moves as one object: mix in the ``collate_fn`` of a ``DataLoader``,
    with worker processes and ``pin_memory=True``, and call ``.to(device)`` in the loop.

    Attributes:
        images: Mixed images, shape ``(B, C, H, W)``.
        labels: Label of each source, class indices of shape ``(B, K)``, or dense labels of shape ``(B, K, N)``.
        weights: Weight of each label, shape ``(B, K)``, float32. Rows usually sum to one.
        plan: Sources ``(B, K)``, nominal ratio ``lam (B,)`` and geometry; ``plan.share(size)`` is every source's
            share of every pixel, shape ``(B, K, H, W)``.

    Example:
        >>> from mixwell import CutMix
        >>> mixed = CutMix()(torch.rand(4, 3, 8, 8), torch.arange(4)).to("cpu")
        >>> images, targets = mixed.images, mixed.targets(num_classes=10)
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

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> MixedBatch:
        """Return the batch on another device, its plan included."""
        return _pytree.tree_map_only(Tensor, lambda t: t.to(device, non_blocking=non_blocking), self)

    def pin_memory(self) -> MixedBatch:
        """Return the batch in pinned memory; a ``DataLoader`` with ``pin_memory=True`` calls this."""
        return _pytree.tree_map_only(Tensor, Tensor.pin_memory, self)

    def check_classes(self, num_classes: int) -> None:
        """Raise if a label is not below ``num_classes``; indices on a GPU are not read, because that waits for it."""
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, but got {num_classes}.")
        if self.labels.dim() == 3:
            if self.labels.shape[2] != num_classes:
                raise ValueError(f"dense labels have {self.labels.shape[2]} classes, but {num_classes} are expected.")
        elif self.labels.is_cpu and not torch.compiler.is_compiling():
            low, high = self.labels.aminmax()
            if int(low) < 0 or int(high) >= num_classes:
                raise ValueError(
                    f"labels must lie between 0 and {num_classes - 1}, but got {low} to {high}: check num_classes."
                )

    def targets(self, num_classes: int, smoothing: float = 0.0, toward: float | None = None) -> Tensor:
        """Build dense targets: the weighted sum of the sources' labels, smoothed once.

        Equal classes add up. Smoothing keeps the total mass of a row, also where weights do not sum to one.

        Args:
            num_classes: Number of classes N.
            smoothing: Share of a row's mass that is spread over all classes, in [0, 1).
            toward: Value towards which smoothing moves every entry; ``None`` means ``1 / num_classes``. timm's
                multi-label smoothing is ``toward=0.5``.

        Returns:
            Targets, shape ``(B, N)``, float32.

        Raises:
            ValueError: A label is not below ``num_classes`` (class indices are checked on the CPU only, because
                reading them on a GPU waits for it), or dense labels have another width.

        Example:
            >>> from mixwell import MixUp, Constant, Roll
            >>> mixed = MixUp(alpha=Constant(0.75), pairing=Roll())(torch.rand(2, 3, 4, 4), torch.tensor([0, 2]))
            >>> mixed.targets(3)
            tensor([[0.7500, 0.0000, 0.2500],
                    [0.2500, 0.0000, 0.7500]])
        """
        self.check_classes(num_classes)
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must lie in [0, 1), but got {smoothing}.")
        if self.labels.dim() == 3:
            targets = (self.weights[..., None] * self.labels.float()).sum(1)  # no einsum: autocast would round it
        else:
            targets = self.weights.new_zeros(len(self.labels), num_classes).scatter_add_(1, self.labels, self.weights)
        if not smoothing:
            return targets
        pull = 1 / num_classes if toward is None else toward
        return targets * (1 - smoothing) + smoothing * pull * self.weights.sum(1, keepdim=True)


def hits(classes: Tensor, labels: Tensor) -> Tensor:
    """Return the share of every source's label on each of the classes ``(B, R)``, shape ``(B, K, R)``."""
    if labels.ndim == 2:
        return (labels[:, :, None] == classes[:, None]).float()
    return labels.gather(2, classes[:, None].expand(-1, labels.shape[1], -1)).float()


def _collate_mixed(batches: list[MixedBatch], **_: object) -> MixedBatch:
    if len(batches) == 1:
        return batches[0]
    raise TypeError(
        f"The default collate function got {len(batches)} mixed batches, which cannot be stacked: collate images and "
        "labels first and mix the result, as in collate_fn=lambda rows: policy(*default_collate(rows))."
    )


_pytree.register_pytree_node(
    MixedBatch,
    lambda mixed: ([mixed.images, mixed.labels, mixed.weights, mixed.plan], None),
    lambda parts, _: MixedBatch(*parts),
)
default_collate_fn_map[MixedBatch] = _collate_mixed
