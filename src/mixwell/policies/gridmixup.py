"""GridMixup."""

from __future__ import annotations

from typing import Annotated

import torch

from mixwell.batch import Pairs
from mixwell.ops.cells import check_pixels
from mixwell.ops.grid import grid_crop, holes
from mixwell.plan import MaskPlan
from mixwell.policy import Policy
from mixwell.typecheck import PositiveFloat, PositiveInt, Within

_Area = Annotated[float, Within(0, 1, above=True)]


class GridMixup(Policy):
    """Show the partner in rectangular holes at regular distances in a part of the anchor.

    OpenMixup calls this method GridMix.

    Args:
        alpha: Distribution of ``lam``: a hole has ``sqrt(1 - lam)`` of each side of its cell. The authors draw it
            uniformly from 0.1 to 0.9, OpenMixup from Beta(0.2).
        pairing: See :class:`Policy`.
        scope: See :class:`Policy`.
        count: Fewest and most holes in a row; a cell has two pixels at least, so small images get fewer.
        area: Smallest and largest area of the part with holes, as a share of the image's area.
        aspect: Smallest and largest height over width of that part.
        hole_aspect: Smallest and largest height over width of a cell.
        clamp: Keep the part within the image.

    Raises:
        ValueError: A range is empty or not positive or, when called, there are more holes than pixels in a row.

    Note:
        With these ranges 43 % of the published draws make a part larger than the image, whose slices then wrap or
        vanish: the default clamps it to the image. ``clamp=False`` allows it to exceed the border, without wrapping.
        As published, a hole and its cell's rest have at least one pixel, so both images show even if ``lam`` is 0 or 1.

    Source: Dobrynin, *GridMixup augmentation*, 2020 (code); in OpenMixup as GridMix.

    Example:
        >>> mixed = GridMixup(scope="sample")(torch.rand(8, 3, 32, 32), torch.arange(8))
        >>> bool((mixed.weights >= 0).all())
        True
    """

    count: tuple[PositiveInt, PositiveInt] = (2, 6)
    area: tuple[_Area, _Area] = (0.5, 1.0)
    aspect: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    hole_aspect: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    clamp: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("count", "area", "aspect", "hole_aspect"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"{name} must be a range (low, high), but got {(low, high)}.")

    def plan(self, pairs: Pairs) -> MaskPlan:
        """See :meth:`Policy.plan`."""
        check_pixels(f"GridMixup with up to {self.count[1]} holes in a row", self.count[1], pairs.size)
        draw = pairs.rand(6)
        area, aspect, hole_aspect = (
            low + (high - low) * draw[:, k] for k, (low, high) in enumerate((self.area, self.aspect, self.hole_aspect))
        )
        count = self.count[0] + (draw[:, 3] * (self.count[1] - self.count[0] + 1)).long()
        crop = grid_crop(area, aspect, pairs.size, self.clamp)
        inside = holes(
            pairs.lam, crop, draw[:, 4:], torch.minimum(count, (crop[1] // 2).clamp_min(1)), hole_aspect, pairs.size
        )
        return MaskPlan(pairs, ~inside[:, None])
