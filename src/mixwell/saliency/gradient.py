"""Saliency from the gradient of the loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mixwell.checks import classes_of
from mixwell.features.isolation import frozen_parameters, undisturbed
from mixwell.saliency.base import Saliency, network_for


class InputGradient(Saliency):
    """Root mean square over channels of the gradient of the loss with respect to the input.

    Every image's own loss, not the batch mean, so that maps do not depend on the batch. The model is run in eval mode
    and left as it was: training flags, parameters' gradients, batch-norm statistics.

    Raises:
        ValueError: There is no model, or images are not floating point.

    Source: Simonyan et al., *Deep Inside Convolutional Networks*, ICLR workshop 2014; with the root mean square over
    channels: Kim et al., *Puzzle Mix*, ICML 2020.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
        >>> InputGradient()(model, torch.rand(2, 3, 8, 8), torch.tensor([0, 4])).shape
        torch.Size([2, 8, 8])
    """

    def __call__(self, model: nn.Module | None, images: Tensor, labels: Tensor) -> Tensor:
        return input_gradient(network_for(self, model, images), images, labels).square().mean(1).sqrt()


def input_gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of every image's own loss, shape ``(B, C, H, W)``, float32; the model is left as it was.

    Args:
        model: The classifier.
        images: Shape ``(B, C, H, W)``, floating point.
        labels: Class indices ``(B,)`` or dense labels ``(B, N)``.
    """
    # The own forward of DistributedDataParallel would overwrite buffers by those of rank 0.
    inner: nn.Module = model.module if isinstance(model, DistributedDataParallel) else model
    with undisturbed(inner), frozen_parameters(inner), torch.enable_grad():
        pixels = images.detach().requires_grad_()
        logits = inner(pixels).float()
        if labels.dim() == 1:  # a label that does not name a class, which a loss may ignore, has no gradient
            labels = labels.where(classes_of(labels, logits.shape[1])[1], -100)
        loss = F.cross_entropy(logits, labels, reduction="sum", ignore_index=-100)
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient.float()
