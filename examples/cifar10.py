"""The data of the examples: CIFAR-10, and the accuracy of a classifier."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR10
from torchvision.transforms import v2

import mixwell as mw


def loaders(folder: str = "data", batch_size: int = 128) -> tuple[DataLoader, DataLoader]:
    """Return batches of training and test images, normalized by ``mw.CIFAR10``; downloads them the first time."""
    last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mw.CIFAR10.mean, mw.CIFAR10.std)]
    augment = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), *last])
    train = CIFAR10(folder, train=True, download=True, transform=augment)
    test = CIFAR10(folder, train=False, download=True, transform=v2.Compose(last))
    return DataLoader(train, batch_size, shuffle=True, drop_last=True, num_workers=2), DataLoader(test, batch_size)


@torch.inference_mode()
def accuracy(model: nn.Module, loader: DataLoader) -> float:
    """Return the accuracy in percent."""
    device = next(model.parameters()).device
    model.eval()
    right = [model(images.to(device)).argmax(1).cpu() == labels for images, labels in loader]
    model.train()
    return 100 * torch.cat(right).float().mean().item()
