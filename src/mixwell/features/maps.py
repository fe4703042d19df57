"""Feature maps: reading one half-way up a network, and telling its layout."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.checks import in_proportion
from mixwell.features.layers import channels_of, middle_layer
from mixwell.features.passes import FeatureHook

__all__ = ["MapHook", "channels_come_last", "channels_of", "grid_of"]

_EXTRA_TOKENS = 16  # class, distillation and register tokens


class _Stop(Exception):  # noqa: N818  (not an error: it ends a forward pass at the layer)
    """Raised by the hook when a forward pass has reached the layer."""


class MapHook(FeatureHook):
    """Reads a feature map ``(B, C, h, w)`` from any layer that outputs maps or tokens.

    :meth:`map` stops the forward pass at the layer, except while ``torch.compile`` traces the network.

    Args:
        network: Any classifier.
        layer: Name of the module in ``named_modules()``; None takes :func:`middle_layer`.

    Raises:
        ValueError: There is no such layer or, when used, its output is not a map.
        RuntimeError: When used: no forward pass ran through the layer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> MapHook(network, "0").map(network, torch.rand(2, 3, 9, 9)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, network: nn.Module, layer: str | None = None) -> None:
        super().__init__(network, middle_layer(network) if layer is None else layer, of="output")
        self._stops = False

    def _call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        super()._call(module, args, kwargs, output)
        if self._stops and not torch.compiler.is_compiling():
            raise _Stop

    def map(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run the network as far as the layer and return the map."""
        self._stops = True
        try:
            with self:
                network(images)
        except _Stop:
            pass
        finally:
            self._stops = False
        return self.taken(images)

    def taken(self, images: Tensor) -> Tensor:
        """Return the map that a forward pass of these images inside the hook's ``with`` block left."""
        output, size = self.take(), (images.shape[2], images.shape[3])
        if output.dim() == 4:
            if output.shape[2] * size[1] == output.shape[3] * size[0]:  # exactly the proportions of the images
                return output
            return output.permute(0, 3, 1, 2) if channels_come_last(output, size) else output
        if output.dim() != 3:
            raise ValueError(
                f"Expected a layer that outputs maps (B, C, h, w) or tokens (B, N, C), but {self.name!r} outputs "
                f"{tuple(output.shape)}: name another layer, as in layer='layer3'."
            )
        rows, columns = grid_of(output.shape[1], size)
        return output[:, output.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def grid_of(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the largest grid with an image's proportions that so many tokens can fill.

    Raises:
        ValueError: More than sixteen tokens would be left over.

    Example:
        >>> grid_of(197, (224, 224)), grid_of(8, (32, 64))
        ((14, 14), (2, 4))
    """
    height, width = size
    for rows in range(math.isqrt(tokens * height // width), 0, -1):
        columns, remainder = divmod(rows * width, height)
        if not remainder and 0 <= tokens - rows * columns <= _EXTRA_TOKENS:
            return rows, columns
    raise ValueError(
        f"{tokens} tokens do not form a grid for images of {height} x {width}: choose another layer, or a policy that "
        "blends, such as MixUp."
    )


def channels_come_last(features: Tensor, size: tuple[int, int]) -> bool:
    """Return whether a map is ``(B, h, w, C)`` and not ``(B, C, h, w)``, judged by the proportions of the images.

    If neither fits exactly, as in a network that pads or cuts, a deviation of one position is accepted.

    Example:
        >>> channels_come_last(torch.rand(2, 7, 10, 768), (224, 300))
        True
    """
    shapes = tuple(features.shape[2:]), tuple(features.shape[1:3])
    first, last = (h * size[1] == w * size[0] for h, w in shapes)
    if not first and not last:
        first, last = (in_proportion(shape, size) for shape in shapes)
    return last and not first


def pooled(features: Tensor) -> Tensor:
    """Return one feature vector per image: the mean over everything but batch and channel.

    Args:
        features: ``(B, D)``, tokens ``(B, N, D)``, or maps with channels first ``(B, D, ...)``.

    Returns:
        Shape ``(B, D)``.

    Raises:
        ValueError: ``features`` has fewer than two dimensions.

    Example:
        >>> pooled(torch.rand(2, 6, 4, 4)).shape, pooled(torch.rand(2, 17, 6)).shape
        (torch.Size([2, 6]), torch.Size([2, 6]))
    """
    if features.ndim < 2:
        raise ValueError(f"features must have shape (B, D), (B, N, D) or (B, D, ...), but got {tuple(features.shape)}.")
    if features.ndim == 3:
        return features.mean(1)
    return features.flatten(2).mean(2) if features.ndim > 3 else features
