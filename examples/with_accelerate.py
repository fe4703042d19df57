"""Train on any number of processes with Accelerate: ``accelerate launch examples/with_accelerate.py``."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from cifar10 import accuracy, loaders
from torch import nn
from torch.utils.data import DataLoader

import mixwell as mw
from mixwell.models import resnet18


def train(model: nn.Module, loader: DataLoader, steps: int, num_classes: int = 10, accumulate: int = 1) -> list[float]:
    """Train for a number of optimizer steps and return the losses."""
    accelerator = Accelerator(gradient_accumulation_steps=accumulate)
    method = mw.SUMix(model, mw.CutMix(alpha=0.2), num_classes=num_classes, normalization=mw.CIFAR10)
    optimizer = torch.optim.SGD(method.param_groups(weight_decay=5e-4), lr=0.1, momentum=0.9)
    wrapped, optimizer, loader = accelerator.prepare(method, optimizer, loader)  # the method, not the model
    set_seed(0, device_specific=True)  # every process draws its own partners and ratios
    wrapped.train()
    losses: list[float] = []
    while len(losses) < steps:
        for images, labels in loader:
            with accelerator.accumulate(wrapped):
                loss = wrapped(images, labels)["loss"]
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(wrapped.parameters(), 5.0)
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                losses.append(loss.item())
                method.after_step(len(losses) / steps)  # of the method itself, once per optimizer step
            if len(losses) == steps:
                break
    return losses


if __name__ == "__main__":
    data, test = loaders()
    network = resnet18(num_classes=10)
    train(network, data, steps=30 * len(data))
    if Accelerator().is_main_process:
        print(f"test accuracy {accuracy(network, test):.1f} %")
