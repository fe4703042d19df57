"""Train masks with SAMix, and then a ResNet on the images that they mix: ``python examples/samix_pretrained.py``."""

from __future__ import annotations

from collections.abc import Iterable
from tempfile import TemporaryDirectory

import torch
from cifar10 import accuracy, loaders
from torch import Tensor, nn

import mixwell as mw
from mixwell.models import mini_resnet, resnet18

Loader = Iterable[tuple[Tensor, Tensor]]


def fit(method: mw.Method, loader: Loader, steps: int) -> list[float]:
    """Train for a number of steps and return the losses."""
    device = next(method.parameters()).device
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
            method.after_step(len(losses) / steps)
            if len(losses) == steps:
                break
    return losses


def train(model: nn.Module, loader: Loader, steps: int, num_classes: int = 10) -> list[float]:
    """Train the masks with a small network, then the model, and return the losses of the model."""
    device = next(model.parameters()).device
    first = mw.SAMix(mini_resnet(num_classes), num_classes=num_classes, normalization=mw.CIFAR10).to(device)
    fit(first, loader, steps)
    with TemporaryDirectory() as folder:
        file, teacher = f"{folder}/mask.safetensors", first.teacher
        mw.save_mask(file, first.block, teacher.model, teacher.layer, "mini_resnet", normalization=mw.CIFAR10)
        masks = mw.LearnedMask(file)  # block and encoder are frozen
    second = mw.SAMixPretrained(model, masks, num_classes=num_classes, normalization=mw.CIFAR10).to(device)
    return fit(second, loader, steps)


if __name__ == "__main__":
    data, test = loaders()
    network = resnet18(num_classes=10).to("cuda" if torch.cuda.is_available() else "cpu")
    train(network, data, steps=30 * len(data))
    print(f"test accuracy {accuracy(network, test):.1f} %")
