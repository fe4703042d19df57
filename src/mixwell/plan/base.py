"""The base of all plans: a record of everything drawn for one batch, and a pure function of images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from mixwell.batch import Pairs, check_images
from mixwell.ops.pixels import LARGE_IMAGE, layout


class Plan(ABC):
    """Everything drawn for one batch, as small tensors; applying it is a pure function.

    The same plan can be applied again: to a second view, to segmentation maps, to images of another type or size.
    What was drawn once for the batch is stored once, with a first dimension ``S`` of 1, and expanded to every row.

    Attributes:
        partners: Rows that are mixed with the anchors, a tensor ``(B,)`` each.
        weights: Label weight of every source, shape ``(B, K)``, float32.
        size: Height and width the plan was drawn for.
    """

    _geometry: tuple[str, ...] = ()  # names of further attributes that belong to a saved plan

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _pytree.register_pytree_node(cls, _flattened, _unflattened)

    def __init__(self, pairs: Pairs, weights: Tensor) -> None:  # (S, K), or of the anchor of two alone, (S,)
        partner = pairs.partner
        self.partners: tuple[Tensor, ...] = partner.unbind(1) if partner.dim() == 2 else (partner,)
        self._lam = pairs.lam
        self.weights = (weights if weights.dim() == 2 else of_two(weights)).float().expand(partner.shape[0], -1)
        self.size = pairs.size

    @property
    def sources(self) -> Tensor:
        """Rows of the sources of every mixed image, the anchor first, shape ``(B, K)``."""
        # Computed on access: it is rarely needed, and would cost every batch.
        return torch.stack((torch.arange(self.partners[0].shape[0], device=self.partners[0].device), *self.partners), 1)

    @property
    def lam(self) -> Tensor:
        """Nominal ratio, the drawn share of the anchor, shape ``(B,)``."""
        return self._lam.expand(self.partners[0].shape[0])

    @property
    def ratios(self) -> Tensor:
        """Drawn ratio of every source, shape ``(B, K)``, rows summing to one.

        Raises:
            ValueError: The plan has more than two sources and holds the ratio of the anchor only.
        """
        if len(self.partners) != 1:
            raise ValueError(
                f"A {type(self).__name__} of {1 + len(self.partners)} sources holds the drawn ratio of the anchor "
                "only: use label=PixelShare()."
            )
        return torch.stack((self._lam, 1 - self._lam), 1).expand(self.partners[0].shape[0], 2)

    @property
    def moves_pixels(self) -> bool:
        """Return whether pixels of a source are at another position in the mixed image than in the clean one."""
        return False

    def __len__(self) -> int:
        return self.partners[0].shape[0]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(sources=({len(self)}, {1 + len(self.partners)}), size={self.size})"

    @abstractmethod
    def share(self, size: tuple[int, int]) -> Tensor:
        """Return every source's share of every pixel of images of this size, shape ``(B, K, H, W)``, float32."""

    @abstractmethod
    def _mix(self, images: Tensor) -> Tensor:
        """Mix functionally: differentiable and compilable."""

    @abstractmethod
    def _mix_batch(self, images: Tensor, out: Tensor) -> None:
        """Mix dense images of one layout into ``out``, which may be ``images``, in few large operations."""

    def _mix_large(self, images: Tensor, out: Tensor) -> None:
        """The same, image by image, for large images on a CPU."""
        self._mix_batch(images, out)

    def apply(self, images: Tensor, out: Tensor | None = None) -> Tensor:
        """Mix a batch.

        Args:
            images: Shape ``(B, C, H, W)``, floating point or uint8 (rounded to nearest), of any size.
            out: Buffer for the result, like ``images``; it may be ``images`` itself. Reusing one buffer avoids the page
                faults of a new one, which on a CPU cost more than the mixing.

        Returns:
            Mixed images of the same shape, type and memory format: ``out`` where it is given.

        Raises:
            TypeError: Images are of another type.
            ValueError: The shape of the batch or of the buffer does not match.

        Example:
            >>> from mixwell import CutMix
            >>> images = torch.rand(4, 3, 8, 8)
            >>> plan = CutMix().draw(images, torch.arange(4))
            >>> bool((plan.apply(images) == plan.apply(images)).all())
            True
        """
        check_images(images)
        first = self.partners[0]
        if images.shape[0] != first.shape[0] or images.device != first.device:
            self._check_rows(images)
        if out is not None and out is not images:
            _check_alike(out, images)
        if torch.compiler.is_compiling() or (torch.is_grad_enabled() and self._differentiable(images)):
            mixed, order = self._mix(images), layout(images)
            if out is not None:
                return out.copy_(mixed)
            return mixed if order is None else mixed.contiguous(memory_format=order)  # gathering forgets channels-last
        dense = images.is_contiguous() or images.is_contiguous(memory_format=torch.channels_last)
        fits = out is None or out.stride() == images.stride()
        out = torch.empty_like(images) if out is None else out
        if not (dense and fits):
            return out.copy_(self._mix(images))
        large = images.is_cpu and images.numel() // images.shape[0] * images.element_size() > LARGE_IMAGE
        (self._mix_large if large else self._mix_batch)(images, out)
        return out

    def source_labels(self, labels: Tensor) -> Tensor:
        """Return the label of every source, shape ``(B, K)``, or ``(B, K, N)`` of dense labels ``(B, N)``.

        Args:
            labels: Class indices ``(B,)``, or dense labels ``(B, N)``, on the plan's device.

        Raises:
            ValueError: There is not one label for every row of the plan.

        Example:
            >>> from mixwell import CutMix, Roll
            >>> plan = CutMix(pairing=Roll()).draw(torch.rand(3, 3, 8, 8), torch.arange(3))
            >>> plan.source_labels(torch.tensor([5, 6, 7])).tolist()
            [[5, 7], [6, 5], [7, 6]]
        """
        if labels.shape[0] != self.partners[0].shape[0]:
            raise ValueError(f"The plan was drawn for {len(self)} images, but got {labels.shape[0]} labels.")
        return torch.stack((labels, *map(partial(labels.index_select, 0), self.partners)), 1)

    def visible(self, maps: Tensor) -> Tensor:
        """Return how much of each source's map is visible in the mixed image.

        Maps are moved exactly as the pixels are, and weighted by the share of each pixel.

        Args:
            maps: Values to add up in the unmixed images, shape ``(B, 1, H, W)`` or ``(B, H, W)``, floating point: a
                mask gives visible pixels, an activation map visible activation.

        Returns:
            Sums, shape ``(B, K)``.

        Example:
            >>> from mixwell import CutMix
            >>> plan = CutMix().draw(torch.rand(4, 3, 8, 8), torch.arange(4))
            >>> bool(torch.allclose(plan.visible(torch.ones(4, 8, 8)) / 64, plan.weights))
            True
        """
        self._check_rows(maps)
        maps = maps[:, None] if maps.dim() == 3 else maps
        share = self.share((maps.shape[2], maps.shape[3]))
        sources = [self._source(maps, k)[:, 0] for k in range(1 + len(self.partners))]
        return torch.stack([(share[:, k] * source).sum((1, 2)) for k, source in enumerate(sources)], 1)

    def apply_segmentation(self, maps: Tensor) -> Tensor:
        """Mix maps of class ids: every pixel gets the id of the source with the largest share of it.

        Args:
            maps: Shape ``(B, H, W)`` or ``(B, 1, H, W)``, any type.

        Returns:
            The mixed maps; every id occurs in one of the sources.
        """
        self._check_rows(maps)
        images = maps[:, None] if maps.dim() == 3 else maps
        owner = self.share((images.shape[2], images.shape[3])).argmax(1, keepdim=True)
        mixed = self._source(images, 0, nearest=True)
        for k in range(1, 1 + len(self.partners)):
            mixed = torch.where(owner == k, self._source(images, k, nearest=True), mixed)
        return mixed[:, 0] if maps.dim() == 3 else mixed

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> Plan:
        """Return the plan on another device."""
        return _pytree.tree_map_only(Tensor, lambda t: t.to(device, non_blocking=non_blocking), self)

    def pin_memory(self) -> Plan:
        """Return the plan in pinned memory."""
        return _pytree.tree_map_only(Tensor, Tensor.pin_memory, self)

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers and strings from which :meth:`from_state_dict` restores the plan."""
        names = ("sources", "_lam", "weights", "size", *self._geometry)
        state: dict[str, Any] = {"kind": type(self).__name__} | {n.lstrip("_"): getattr(self, n) for n in names}
        if "plans" in state:
            state["plans"] = tuple(plan.state_dict() for plan in state["plans"])
        return state

    @staticmethod
    def from_state_dict(state: dict[str, Any]) -> Plan:
        """Restore a saved plan.

        Raises:
            ValueError: The state is not a saved plan.

        Example:
            >>> from mixwell import CutMix
            >>> plan = CutMix().draw(torch.rand(4, 3, 8, 8), torch.arange(4))
            >>> Plan.from_state_dict(plan.state_dict())
            BoxPlan(sources=(4, 2), size=(8, 8))
        """
        kinds = {kind.__name__: kind for kind in _all_kinds(Plan)}
        kind = kinds.get(state.get("kind", ""))
        names = () if kind is None else ("_lam", "weights", "size", *kind._geometry)
        if kind is None or set(state) != {"kind", "sources", *(name.lstrip("_") for name in names)}:
            raise ValueError(
                f"Not a saved plan: expected the state_dict() of one of {sorted(kinds)}, got {sorted(state)}."
            )
        plan = kind.__new__(kind)
        made = dict(state, size=tuple(state["size"]))
        if "plans" in made:
            made["plans"] = tuple(Plan.from_state_dict(inner) for inner in made["plans"])
        plan.partners = made["sources"].unbind(1)[1:]
        for name in names:
            setattr(plan, name, made[name.lstrip("_")])
        return plan

    def _plan_of(self, row: int) -> Plan:
        """Return the plan that a row follows."""
        return self

    def _moved_boxes(self, boxes: Tensor, row: int, k: int, size: tuple[int, int]) -> Tensor:
        """Return bounding boxes of source ``k`` of a row where they are in the mixed image of this size."""
        if self.moves_pixels:
            raise ValueError(f"Bounding boxes cannot follow a {type(self).__name__}, which moves cells of the images.")
        return boxes

    def _check_rows(self, images: Tensor) -> None:
        if images.shape[0] != self.partners[0].shape[0]:
            raise ValueError(f"The plan was drawn for {len(self)} images, but got {images.shape[0]}.")
        if images.device != self.partners[0].device:
            raise ValueError(
                f"The plan is on {self.partners[0].device}, but the images are on {images.device}: use plan.to()."
            )

    def _differentiable(self, images: Tensor) -> bool:
        return images.requires_grad

    def _source(self, images: Tensor, k: int, nearest: bool = False) -> Tensor:
        """Return source ``k`` of every row at its position in the mixed image; ``nearest`` creates no new values."""
        return images if k == 0 else images.index_select(0, self.partners[k - 1])


def _check_alike(out: Tensor, images: Tensor) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"out must be a tensor like the images, but got {type(out).__name__}.")
    if out.shape != images.shape or out.dtype != images.dtype or out.device != images.device:
        raise ValueError(
            f"out must be like the images, {tuple(images.shape)} {images.dtype} on {images.device}, but is "
            f"{tuple(out.shape)} {out.dtype} on {out.device}."
        )


def _all_kinds(kind: type[Plan]) -> list[type[Plan]]:
    return [k for sub in kind.__subclasses__() for k in (sub, *_all_kinds(sub))]


def _flattened(plan: Plan) -> tuple[list[Any], Any]:
    """Return what a plan holds in tensors, and everything else, for torch's pytree."""
    names = ("partners", "_lam", "weights", *plan._geometry)
    moved = [name for name in names if isinstance(getattr(plan, name), Tensor | tuple)]
    kept = {name: getattr(plan, name) for name in ("size", *names) if name not in moved}
    return [getattr(plan, name) for name in moved], (type(plan), moved, kept)


def _unflattened(parts: Any, context: Any) -> Plan:
    kind, moved, kept = context
    plan = kind.__new__(kind)
    for name, value in (*zip(moved, parts, strict=True), *kept.items()):
        setattr(plan, name, value)
    return plan


def of_two(weight: Tensor) -> Tensor:
    """Return the weights of anchor and partner from the anchor's ``(S,)``: ``(S, 2)``, or ``(2,)`` for all rows."""
    plain = weight.is_cpu and weight.shape[0] == 1 and not weight.requires_grad
    if plain and not torch.compiler.is_compiling():  # in plain numbers, as boxes are
        anchor = weight.item()
        return torch.frombuffer(array("f", (anchor, 1 - anchor)), dtype=torch.float32)
    return torch.stack((weight, 1 - weight), 1)
