"""Train a ResNet with AutoMix in Lightning: ``python examples/with_lightning.py``."""

from __future__ import annotations

from functools import partial

import lightning as L
import torch
from cifar10 import loaders
from torch import nn
from torch.utils.data import DataLoader

import mixwell as mw
from mixwell.integrations.lightning import MethodModule
from mixwell.models import resnet18


def train(model: nn.Module, loader: DataLoader, test_loader: DataLoader, trainer: L.Trainer) -> MethodModule:
    """Train with the settings of a Trainer and return the module."""
    module = MethodModule(
        mw.AutoMix(model, num_classes=10, normalization=mw.CIFAR10),
        optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR,
        weight_decay=5e-4,
        ema=0.999,
    )
    trainer.fit(module, loader, test_loader)
    return module


if __name__ == "__main__":
    settings = {"max_epochs": 30, "precision": "16-mixed" if torch.cuda.is_available() else "32-true"}
    train(resnet18(num_classes=10), *loaders(), L.Trainer(gradient_clip_val=5.0, **settings))
