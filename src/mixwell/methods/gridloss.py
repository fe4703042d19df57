"""GridMix's local loss: every cell of the last map tells its own label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.batch import MixedBatch, check_classes
from mixwell.features.hooks import undisturbed, unwrapped
from mixwell.features.layers import convolutional, last_map
from mixwell.features.maps import MapTap
from mixwell.labels import LabelPolicy, PixelShare
from mixwell.losses import cross_entropy
from mixwell.methods.mixing import Loss, Mixing
from mixwell.policies.gridmix import GridMix
from mixwell.policy import BatchPolicy

_SIDES = (32, 64, 224)  # of images that networks are made for


class GridLoss(Mixing):
    """Ask the network for the label of the whole mixed image, and for that of every cell of a grid.

    A linear head, used in training only, classifies the last map averaged to the grid. A cell's label is made of its
    sources in the shares they have of it, so that any policy will do; with :class:`GridMix` every cell has one label.

    Args:
        model: The classifier.
        policy: What goes where; ``None`` takes :class:`GridMix`.
        num_classes: Number of classes N.
        cells: Cells per side.
        weight: Weight of the local loss; 0.15 is from memory of the paper.
        layer: Module whose output is the last map, ``(B, C, h, w)``, ``(B, h, w, C)`` or tokens ``(B, N, C)``;
            ``None`` takes the last stage, or what a timm model says, or the last part that has a convolution.
        channels: Channels of that map; ``None`` runs the model once, on a black image, as far as the layer.
        label: What the whole image is called, as in :class:`Mixing`; cells always follow the pixels.
        loss: What an error on the whole image costs, ``(logits, mixed) -> scalar``; on cells it is cross entropy.

    Raises:
        TypeError: The model is no module, or the policy cannot mix.
        ValueError: ``cells`` or ``weight`` is out of range, the model has no map or its channels cannot be told, or
            labels do not fit the classes.

    Note:
        The paper's own code is not public. Its cells hold one source each; cells that several share are ours.

    Source: Baek et al., *GridMix: Strong regularization through local context mapping*, Pattern Recognition 2021.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> method = GridLoss(model, GridMix(), num_classes=5)
        >>> sorted(method(torch.rand(4, 3, 32, 32), torch.arange(4)))
        ['local', 'loss', 'output']
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy | None = None,
        *,
        num_classes: int,
        cells: int = 4,
        weight: float = 0.15,
        layer: str | None = None,
        channels: int | None = None,
        label: LabelPolicy = PixelShare(),
        loss: Loss = cross_entropy,
    ) -> None:
        policy = GridMix() if policy is None else policy
        super().__init__(model, policy, num_classes=num_classes, label=label, loss=loss)
        if cells < 1 or not weight >= 0:
            raise ValueError(f"cells must be at least 1 and weight not negative, but got {cells} and {weight}.")
        self.cells, self.weight = cells, weight
        self.tap = MapTap(model, _last_map(model) if layer is None else layer)
        self.head = nn.Conv2d(channels or _channels(model, self.tap), num_classes, 1)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also returns the local loss."""
        mixed = self.policy(images, labels, model=self.model)
        step = self._learn(mixed, images)
        check_classes(mixed.labels, self.head.out_channels)
        local = self._local(self.tap.taken(mixed.images), mixed)
        return {**step, "loss": step["loss"] + self.weight * local, "local": local.detach()}

    def _local(self, features: Tensor, mixed: MixedBatch) -> Tensor:
        """Return the mean cross entropy of the cells of a map."""
        if features.shape[1] != self.head.in_channels:
            raise ValueError(
                f"GridLoss was made for {self.head.in_channels} channels, but {self.tap.name!r} puts out a map of "
                f"{features.shape[1]}: give channels={features.shape[1]}, or name another layer."
            )
        logits = self.head(F.adaptive_avg_pool2d(features, self.cells)).flatten(2)  # (B, N, cells ** 2)
        share = mixed.plan.share((mixed.images.shape[2], mixed.images.shape[3]))
        shares = F.adaptive_avg_pool2d(share, self.cells).flatten(2)  # (B, K, cells ** 2)
        log_probabilities = logits.float().log_softmax(1)
        if mixed.labels.dim() == 3:  # not einsum, which autocast would run in bfloat16
            targets = (shares[:, :, None] * mixed.labels.float()[..., None]).sum(1)
            return -(targets * log_probabilities).sum(1).mean()
        own = log_probabilities.gather(1, mixed.labels[..., None].expand_as(shares))
        return -(shares * own).sum(1).mean()


def _last_map(model: nn.Module) -> str:
    """Return the last map, or else the last part with a convolution: reading it does no harm if more goes around it."""
    try:
        return last_map(model)
    except ValueError:
        found = convolutional(model)
        if not found:
            raise
        return found[-1]


def _channels(model: nn.Module, tap: MapTap) -> int:
    """Return how many channels the tapped map has, by looking at one."""
    network = unwrapped(model)
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    like = next(network.parameters(), torch.empty(0))
    known = getattr(network, "pretrained_cfg", {}).get("input_size", (0,))[-1]
    reason: Exception | None = None
    for side in (known, *_SIDES) if known else _SIDES:
        image = torch.zeros(1, 3 if first is None else first.in_channels, side, side, device=like.device)
        try:
            with torch.no_grad(), undisturbed(network):
                return tap.map(network, image.to(like.dtype)).shape[1]
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
            reason = error
    raise ValueError(
        f"The channels of the map that {tap.name!r} puts out cannot be told ({reason}): give channels=, or name "
        "another layer."
    )
