"""Label weights from the objects that are visible, where the user knows where they are."""

from __future__ import annotations

import torch
from torch import Tensor

from mixwell.batch import MixedBatch
from mixwell.labels.base import LabelPolicy, View


class ObjectShare(LabelPolicy):
    """Label weights are the visible shares of each source's object, from masks or boxes: the exact form.

    Args:
        fraction: Compare the visible fraction of each object, so that a small object that is fully visible counts as
            much as a large one; ``False`` compares visible object pixels.

    Raises:
        ValueError: When called: there are no objects, or their shape does not fit the batch.

    Example:
        >>> from mixwell import Constant, CutMix
        >>> mixed = CutMix(alpha=Constant(0.75))(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        >>> boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]])  # objects that fill their image
        >>> bool(torch.allclose(ObjectShare()(mixed, boxes=boxes), mixed.weights))
        True
    """

    fraction: bool = True

    def __call__(
        self,
        mixed: MixedBatch,
        view: View | None = None,
        *,
        masks: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> Tensor:
        """Return weights ``(B, K)``, float32; where no object is visible, they are the pixel shares.

        Args:
            mixed: The mixed batch.
            view: Holds the objects where they are not given directly.
            masks: The objects, shape ``(B, H, W)``, bool or floating point in [0, 1].
            boxes: Their boxes instead, ``(B, 4)``, or several per image ``(B, M, 4)``, as ``(x1, y1, x2, y2)`` in
                pixels of the images; a box without area does not count.
        """
        given = [t for t in (masks, boxes, None if view is None else view.objects) if t is not None]
        if len(given) != 1:
            raise ValueError(f"{self} needs either masks or boxes of the objects, but got {len(given)} of them.")
        found = object_masks(given[0], len(mixed), mixed.plan.size)
        seen = mixed.plan.visible(found)
        if self.fraction:
            seen = seen / found.sum((1, 2)).clamp_min(1e-9)[mixed.plan.sources]
        total, rows = seen.sum(1, keepdim=True), mixed.weights.sum(1, keepdim=True)
        return torch.where(total > 0, seen / total.clamp_min(1e-12) * rows, mixed.weights)


def object_masks(objects: Tensor, rows: int, size: tuple[int, int]) -> Tensor:
    """Return masks ``(B, H, W)``, float32, of objects given as masks or boxes; see :class:`ObjectShare`.

    A pixel is inside a box by the part of it that the box covers.

    Raises:
        ValueError: The shape fits neither masks nor boxes of so many images.

    Example:
        >>> object_masks(torch.tensor([[0.0, 0.0, 1.5, 1.0]]), 1, (1, 3))
        tensor([[[1.0000, 0.5000, 0.0000]]])
    """
    if objects.dim() == 3 and objects.shape == (rows, *size):
        return objects.float()
    if objects.dim() not in (2, 3) or objects.shape[0] != rows or objects.shape[-1] != 4:
        raise ValueError(
            f"Objects must be masks ({rows}, {size[0]}, {size[1]}) or boxes ({rows}, 4) or ({rows}, M, 4), but got "
            f"{tuple(objects.shape)}."
        )
    boxes = objects.float().view(rows, -1, 4)
    left, top, right, bottom = boxes.unbind(2)
    covered = [
        (torch.minimum(end[..., None], edge + 1) - torch.maximum(start[..., None], edge)).clamp(0, 1)
        for start, end, edge in (
            (top, bottom, torch.arange(size[0], device=boxes.device)),
            (left, right, torch.arange(size[1], device=boxes.device)),
        )
    ]
    return (covered[0][..., :, None] * covered[1][..., None, :]).amax(1)
