"""GridMix's local loss: every cell of the last map tells its own label."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mixwell.losses import cross_entropy
from mixwell.methods.method import Method
from mixwell.policies.gridmix import GridMix
from mixwell.policy import BatchPolicy
from mixwell.taps import Tap, unwrapped


class GridLoss(Method):
    """Ask the network for the label of the whole mixed image, and for that of every cell of a grid.

    A linear head, used in training only, classifies the last map averaged to the grid. A cell's label is made of its
    sources in the shares they have of it, so that any policy will do; with :class:`GridMix` every cell has one label.

    Args:
        model: The classifier.
        policy: What goes where.
        num_classes: Number of classes N.
        cells: Cells per side.
        weight: Weight of the local loss; 0.15 is from memory of the paper.
        layer: Module whose output is the last map; ``None`` takes what a timm model says, or the last part of the
            model that has a convolution.

    Raises:
        ValueError: ``cells`` or ``weight`` is out of range, or the model has no convolutional map.

    Note:
        The paper's own code is not public. Its cells hold one source each; cells that several share are ours.

    Source: Baek et al., *GridMix: Strong regularization through local context mapping*, Pattern Recognition 2021.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> method = GridLoss(model, GridMix(), num_classes=5)
        >>> sorted(method(torch.rand(4, 3, 32, 32), torch.arange(4)))
        ['local', 'loss', 'output']
    """

    def __init__(
        self,
        model: nn.Module,
        policy: BatchPolicy = GridMix(),
        *,
        num_classes: int,
        cells: int = 4,
        weight: float = 0.15,
        layer: str | None = None,
    ) -> None:
        super().__init__(model)
        if cells < 1 or weight < 0:
            raise ValueError(f"cells must be at least 1 and weight not negative, but got {cells} and {weight}.")
        self.policy, self.cells, self.weight = policy, cells, weight
        self.tap = Tap(model, last_convolution(model) if layer is None else layer, of="output")
        self.head = nn.Conv2d(_channels(model, self.tap.name), num_classes, 1)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """See :meth:`Method.forward`; also returns the local loss."""
        mixed = self.policy(images, labels, model=self.model)
        logits = self.model(mixed.images)
        local = self.head(F.adaptive_avg_pool2d(self.tap.take(), self.cells)).flatten(2)  # (B, N, cells ** 2)
        share = mixed.plan.share((images.shape[2], images.shape[3]))
        shares = F.adaptive_avg_pool2d(share, self.cells).flatten(2)  # (B, K, cells ** 2)
        log_probabilities = local.float().log_softmax(1)
        own = log_probabilities.gather(1, mixed.labels[..., None].expand_as(shares))
        local_loss = -(shares * own).sum(1).mean()
        whole = cross_entropy(logits, mixed)
        return {"loss": whole + self.weight * local_loss, "output": logits, "local": local_loss.detach()}


def last_convolution(model: nn.Module) -> str:
    """Name the part of a model that makes its last map.

    Raises:
        ValueError: The model has no convolution.

    Example:
        >>> last_convolution(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten()))
        '0'
    """
    stages = getattr(unwrapped(model), "feature_info", None)
    if stages:
        return str(stages[-1]["module"])
    parts = [name for name, part in model.named_children() if any(isinstance(m, nn.Conv2d) for m in part.modules())]
    if not parts:
        raise ValueError(f"{type(model).__name__} has no convolutional map; name the layer to read.")
    return parts[-1]


def _channels(model: nn.Module, name: str) -> int:
    convolutions = [m for m in model.get_submodule(name).modules() if isinstance(m, nn.Conv2d)]
    if not convolutions:
        raise ValueError(
            f"{name!r} of {type(model).__name__} has no convolution, so it makes no map; name another layer."
        )
    return convolutions[-1].out_channels
