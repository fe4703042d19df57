"""Train a ResNet on images mixed by CutMix or MixUp: ``python examples/mixing.py``."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from cifar10 import accuracy, loaders
from torch import Tensor, nn

import mixwell as mw
from mixwell.models import resnet18


def train(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], steps: int, num_classes: int = 10) -> list[float]:
    """Train for a number of steps and return the losses."""
    device = next(model.parameters()).device
    method = mw.Mixing(
        model,
        mw.OneOf([mw.CutMix(alpha=1.0), mw.MixUp(alpha=0.2)]),
        loss=mw.CrossEntropy(smoothing=0.1),
        normalization=mw.CIFAR10,
    )
    optimizer = torch.optim.SGD(method.param_groups(weight_decay=5e-4), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    method.train()
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in loader:
            out = method(images.to(device), labels.to(device))  # mixes, predicts and computes the loss
            optimizer.zero_grad()
            out["loss"].backward()
            optimizer.step()
            schedule.step()
            losses.append(out["loss"].item())
            method.after_step(len(losses) / steps)  # updates schedules; this method has none by default
            if len(losses) == steps:
                break
    return losses


if __name__ == "__main__":
    data, test = loaders()
    network = resnet18(num_classes=10).to("cuda" if torch.cuda.is_available() else "cpu")
    train(network, data, steps=30 * len(data))
    print(f"test accuracy {accuracy(network, test):.1f} %")
