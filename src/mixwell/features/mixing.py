"""Places inside a model where one forward pass may be changed, and plans applied to what goes by there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import Pairs
from mixwell.checks import in_proportion
from mixwell.features.hooks import module_of
from mixwell.plan import BlendPlan, ChoicePlan, MaskPlan, PatchPlan, Plan

Change = Callable[[Tensor], Tensor]
_LOOSE_TOKENS = 16  # class, distillation and register tokens


class Gate:
    """Changes what comes out of one module, once, in the forward pass that it is opened for.

    Closed, which it is at all other times, it does nothing. Like a :class:`mixwell.Tap` it is installed before
    ``torch.compile`` and ``DistributedDataParallel``; a gate that nothing went through says so instead of leaving the
    batch as it was.

    Args:
        model: Any model; wrappers such as ``DistributedDataParallel`` are looked through.
        name: The module, as ``model.named_modules()`` calls it.

    Raises:
        ValueError: The model has no such module.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Identity(), nn.Flatten())
        >>> gate = Gate(model, "0")
        >>> with gate.opened(lambda features: features + 1):
        ...     model(torch.zeros(1, 2))
        tensor([[1., 1.]])
        >>> model(torch.zeros(1, 2))
        tensor([[0., 0.]])
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        self.name = name
        self._change: Change | None = None
        self._handle = module_of(model, name).register_forward_hook(self._pass)

    def __repr__(self) -> str:
        return f"Gate({self.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_change": None}  # copies are closed

    def _pass(self, module: nn.Module, args: Any, output: Any) -> Any:
        change, self._change = self._change, None
        # __call__ is spelled out: until 2.7 torch.compile guards what is called by its identity, new at every step.
        return output if change is None else change.__call__(_tensor(output, self.name))

    @contextmanager
    def opened(self, change: Change) -> Iterator[None]:
        """Let ``change`` turn the module's next output into another one.

        Raises:
            RuntimeError: Nothing went through the gate.
            TypeError: Something went through that is not a tensor.
        """
        self._change = change
        try:
            yield
            if self._change is not None:
                raise RuntimeError(
                    f"nothing went through {self.name!r}: either the forward pass does not use that module, or the "
                    "model was compiled before the method was made; make the method first, then compile"
                )
        finally:
            self._change = None

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()


def mix_features(plan: Plan, features: Tensor) -> Tensor:
    """Mix what goes on inside a model by a plan that was drawn for its images.

    A place in a feature map takes the mean share of the pixels that it covers, so that label weights stay right; a plan
    that moves pixels is applied at the map's size, where its edges are rounded to whole places. Where a map has too few
    places to move the cells of :class:`PuzzleMix`, they stay, and only the shares count. Tokens that lie in no grid (a
    class token) are blended by the label weights.

    Args:
        plan: Any plan; its size is the images'.
        features: Maps ``(B, C, h, w)`` or ``(B, h, w, C)``, which are told apart by the images' height over width, or
            tokens ``(B, N, C)``, those of no place first.

    Returns:
        Mixed features of the same shape.

    Raises:
        ValueError: The features have another shape, or a plan of places meets features without places.

    Example:
        >>> import torch
        >>> from mixwell import CutMix
        >>> plan = CutMix().draw(torch.rand(4, 3, 32, 32), torch.arange(4))
        >>> mix_features(plan, torch.rand(4, 16, 8, 8)).shape, mix_features(plan, torch.rand(4, 65, 16)).shape
        (torch.Size([4, 16, 8, 8]), torch.Size([4, 65, 16]))
    """
    if isinstance(plan, BlendPlan) and features.dim() > 1:
        wide = features.reshape(*features.shape[:2], -1, 1) if features.dim() != 4 else features
        return plan.apply(wide).reshape(features.shape)
    if features.dim() == 4:
        if channels_come_last(features, plan.size):
            return _apply(plan, features.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return _apply(plan, features)
    if features.dim() != 3:
        raise ValueError(
            f"{type(plan).__name__} mixes places, but features of shape {tuple(features.shape)} have none: choose a "
            "layer that puts out maps or tokens, or a policy that blends, such as MixUp."
        )
    rows, columns = grid_of(features.shape[1], plan.size)
    loose, placed = features.split((features.shape[1] - rows * columns, rows * columns), 1)
    maps = placed.transpose(1, 2).unflatten(2, (rows, columns))
    mixed = _apply(plan, maps).flatten(2).transpose(1, 2)
    if not loose.shape[1]:
        return mixed
    blended = (plan.weights.to(loose.dtype)[..., None, None] * loose[plan.sources]).sum(1)
    return torch.cat((blended, mixed), 1)


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the largest grid of an image's proportions that so many tokens can fill.

    Raises:
        ValueError: More than sixteen tokens would be left over.

    Example:
        >>> grid_of(197, (224, 224)), grid_of(8, (32, 64))
        ((14, 14), (2, 4))
    """
    height, width = size
    for rows in range(math.isqrt(tokens * height // width), 0, -1):
        columns, remainder = divmod(rows * width, height)
        if not remainder and 0 <= tokens - rows * columns <= _LOOSE_TOKENS:
            return rows, columns
    raise ValueError(
        f"{tokens} tokens make no grid for images of {height} x {width}: choose another layer, or a policy that blends."
    )


def _apply(plan: Plan, maps: Tensor) -> Tensor:
    size = (maps.shape[2], maps.shape[3])
    if size == plan.size or (plan.moves_pixels and _moves(plan, size)) or len(plan.partners) != 1:
        return plan.apply(maps)
    share = F.adaptive_avg_pool2d(plan.share(plan.size)[:, :1], size)
    return MaskPlan(Pairs(plan.partners[0], plan.lam, size), share).apply(maps)


def _moves(plan: Plan, size: tuple[int, int]) -> bool:
    """Tell whether the cells that a plan moves, if any, divide a map of this size."""
    if isinstance(plan, ChoicePlan):
        return all(_moves(one, size) for one in plan.plans)
    cells = round(plan.moves.shape[2] ** 0.5) if isinstance(plan, PatchPlan) else 1
    return size[0] % cells == 0 and size[1] % cells == 0


def channels_come_last(features: Tensor, size: tuple[int, int]) -> bool:
    """Tell maps ``(B, h, w, C)`` from ``(B, C, h, w)`` by the proportions of the images that they show.

    Where neither fits exactly, as in a network that pads or cuts, what fits up to one place counts.

    Example:
        >>> import torch
        >>> channels_come_last(torch.rand(2, 7, 10, 768), (224, 300))
        True
    """
    shapes = tuple(features.shape[2:]), tuple(features.shape[1:3])
    first, last = (h * size[1] == w * size[0] for h, w in shapes)
    if not first and not last:
        first, last = (in_proportion(shape, size) for shape in shapes)
    return last and not first


def _tensor(output: Any, name: str) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(
            f"{name!r} puts out a {type(output).__name__}, and a gate changes one tensor: name a module next to it"
        )
    return output
