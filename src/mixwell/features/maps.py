"""Reading a map of features half-way up a network, without running the rest of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mixwell.features.hooks import Tap, module_of
from mixwell.features.layers import stages_of
from mixwell.features.mixing import channels_come_last, grid_of


class Reached(Exception):  # noqa: N818  (no error: it ends a forward pass that has gone far enough)
    """Raised by the hook when all that was asked for is there."""


class MapTap(Tap):
    """Reads a map ``(B, C, h, w)`` from any layer that puts out maps or tokens, and can stop the forward pass there.

    Stopping is left out while ``torch.compile`` traces the network, where an exception would break the graph.

    Args:
        network: Any classifier.
        layer: The module, as ``named_modules()`` calls it; ``None`` takes the last stage but one, or the middle block
            of a transformer, see :func:`middle_layer`.

    Raises:
        ValueError: There is no such layer or, when called, what it puts out is no map.
        RuntimeError: When called: the forward pass did not come by the layer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> tap = MapTap(network, "0")
        >>> tap.map(network, torch.rand(2, 3, 9, 9)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, network: nn.Module, layer: str | None = None) -> None:
        self._stop = False
        super().__init__(network, middle_layer(network) if layer is None else layer, of="output")

    def _capture(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        super()._capture(module, args, kwargs, output)
        if self._stop and not torch.compiler.is_compiling():
            raise Reached

    def map(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run the network as far as the layer and return the map."""
        self._stop = True
        try:
            network(images)
        except Reached:
            pass
        finally:
            self._stop = False
        return self.taken(images)

    def taken(self, images: Tensor) -> Tensor:
        """Return the map that a forward pass of these images has left."""
        output, size = self.take(), (images.shape[2], images.shape[3])
        if output.dim() == 4:
            return output.permute(0, 3, 1, 2) if channels_come_last(output, size) else output
        if output.dim() != 3:
            raise ValueError(
                f"A mix block needs a map (B, C, h, w) or tokens (B, N, C), but {self.name!r} puts out "
                f"{tuple(output.shape)}: name another layer, as in layer='layer3'."
            )
        rows, columns = grid_of(output.shape[1], size)
        return output[:, output.shape[1] - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def middle_layer(network: nn.Module) -> str:
    """Return the layer whose map a mix block reads: the last stage but one, or the middle block of a transformer.

    Raises:
        ValueError: The network's stages cannot be told.

    Example:
        >>> from mixwell.models import mini_resnet
        >>> middle_layer(mini_resnet(10))
        'layer2'
    """
    stages = stages_of(network)
    if len(stages) < 2:
        raise ValueError(
            f"The stages of {type(network).__name__} cannot be told, so there is no map to tap: name the layer, as in "
            "layer='features.4', as model.named_modules() calls it."
        )
    return stages[len(stages) // 2 - 1] if "blocks" in stages[0].split(".") or len(stages) > 5 else stages[-2]


def channels_of(network: nn.Module, layer: str) -> int:
    """Return how many channels a layer puts out, read off the last convolution, linear layer or norm inside it.

    Raises:
        ValueError: There is none.

    Example:
        >>> channels_of(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), "0")
        6
    """
    found = 0
    for module in module_of(network, layer).modules():
        if isinstance(module, nn.Conv2d):
            found = module.out_channels
        elif isinstance(module, nn.Linear):
            found = module.out_features
        elif isinstance(module, nn.LayerNorm):
            found = module.normalized_shape[-1]
        else:
            found = getattr(module, "num_features", found)
    if not isinstance(found, int) or not found:
        raise ValueError(f"The channels that {layer!r} puts out cannot be told: give channels=.")
    return found
