"""Label weights from the objects that are visible, where the user knows where they are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mixwell.batch import MixedBatch
from mixwell.labels.base import Boxes, LabelPolicy, View, normalized, plan_of
from mixwell.ops.boxes import coverage
from mixwell.ops.pixels import on_host


class ObjectShare(LabelPolicy):
    """Label weights are the visible shares of each source's object, from masks or boxes: the exact form.

    A method takes the objects of a batch in the call, ``method(images, labels, boxes=boxes)``.

    Args:
        fraction: Compare the visible fraction of each object, so that a small object that is fully visible counts as
            much as a large one; ``False`` compares visible object pixels.

    Raises:
        ValueError: When called: there are no objects, or they do not fit the batch.

    Example:
        >>> from mixwell import Constant, CutMix, Mixing
        >>> images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
        >>> mixed = CutMix(alpha=Constant(0.75))(images, labels)
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]])  # objects that fill their image
        >>> bool(torch.allclose(ObjectShare()(mixed, boxes=boxes), mixed.weights))
        True
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> Mixing(model, CutMix(), label=ObjectShare())(images, labels, boxes=boxes)["loss"].backward()
    """

    fraction: bool = True

    def __call__(
        self, mixed: MixedBatch, view: View | None = None, *, masks: Tensor | None = None, boxes: Boxes = None
    ) -> Tensor:
        """Return weights ``(B, K)``, float32; where no object is visible, they are the pixel shares.

        Args:
            mixed: The mixed batch.
            view: Holds the objects where they are not given directly.
            masks: The objects in the unmixed images, shape ``(B, H, W)``, bool, or floating point in [0, 1].
            boxes: Their bounding boxes instead, ``(B, 4)``, or several per image: ``(B, M, 4)``, or a sequence of B
                tensors ``(M, 4)`` of any M. A box is ``(x1, y1, x2, y2)`` in pixels; boxes without area, such as rows
                of zeros, do not count.
        """
        if view is not None:
            masks, boxes = view.masks if masks is None else masks, view.boxes if boxes is None else boxes
        if (masks is None) == (boxes is None):
            given = "neither" if masks is None else "both"
            raise ValueError(
                f"{self} needs the objects in the unmixed images, either masks= or boxes=, but got {given}: pass one "
                "of them in the call, as in method(images, labels, boxes=boxes)."
            )
        plan = plan_of(mixed, self)
        rows = len(mixed)
        with torch.no_grad(), torch.autocast(mixed.weights.device.type, enabled=False):
            found = object_masks(boxes, rows, plan.size) if masks is None else _checked(masks, rows, plan.size)
            seen = plan.visible(found)
            if self.fraction:
                seen = seen / found.sum((1, 2)).clamp_min(1e-9)[plan.sources]
            return normalized(seen, mixed)


def _checked(masks: Tensor, rows: int, size: tuple[int, int]) -> Tensor:
    """Return masks in float32, or raise if they are not masks of the batch."""
    if masks.shape != (rows, *size):
        raise ValueError(f"masks must have shape ({rows}, {size[0]}, {size[1]}), but got {tuple(masks.shape)}.")
    if masks.dtype != torch.bool and not masks.is_floating_point():
        raise ValueError(f"masks must be bool or floating point, but got {masks.dtype}: use masks > 0.")
    if on_host(masks) and not bool(((masks >= 0) & (masks <= 1)).all()):
        raise ValueError(f"masks must lie in [0, 1], but got {float(masks.min()):.4g} to {float(masks.max()):.4g}.")
    return masks.float()


def object_masks(boxes: Boxes, rows: int, size: tuple[int, int]) -> Tensor:
    """Return masks ``(B, H, W)``, float32, of objects given as boxes; see :class:`ObjectShare`.

    A pixel is inside a box by the part of it that the box covers.

    Raises:
        ValueError: The boxes do not fit so many images, or a box ends before it starts.

    Example:
        >>> object_masks(torch.tensor([[0.0, 0.0, 1.5, 1.0]]), 1, (1, 3))
        tensor([[[1.0000, 0.5000, 0.0000]]])
        >>> object_masks([torch.tensor([[0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0]])], 1, (1, 3))
        tensor([[[1., 0., 1.]]])
    """
    each = [boxes] if isinstance(boxes, Tensor) else list(boxes or ())
    shapes = [tuple(one.shape) for one in each]
    if isinstance(boxes, Tensor):
        fit = boxes.dim() in (2, 3) and boxes.shape[0] == rows and boxes.shape[-1] == 4
    else:
        fit = len(each) == rows and all(len(shape) == 2 and shape[1] == 4 for shape in shapes)
    if not fit:
        raise ValueError(
            f"boxes must have shape ({rows}, 4) or ({rows}, M, 4), or be {rows} tensors (M, 4), but got "
            f"{shapes[0] if isinstance(boxes, Tensor) else shapes}."
        )
    padded = boxes if isinstance(boxes, Tensor) else pad_sequence(each, batch_first=True)
    found = padded.float().view(rows, -1, 2, 2).transpose(2, 3)  # (B, M, axis, edge)
    if on_host(found) and not bool((found[..., 0] <= found[..., 1]).all()):
        raise ValueError("boxes must be (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2, but some end before they start.")
    if not found.shape[1]:
        return found.new_zeros(rows, *size)
    columns, lines = coverage(found[:, :, 0], size[1]), coverage(found[:, :, 1], size[0])
    return (lines[..., :, None] * columns[..., None, :]).amax(1)
