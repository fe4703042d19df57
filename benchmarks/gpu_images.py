"""A small data set that stays on the device as bytes, and is augmented and classified there.

Images are shuffled, shifted with reflected borders, mirrored with probability one half and normalised, many at once in
a few large operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from gpu_data import Split
from gpu_measure import Host
from torch import Tensor, nn

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # of CIFAR-100


@dataclass(frozen=True)
class Images:
    """A data set on a device: pixels ``(N, 3, H, W)`` uint8 and class indices ``(N,)``."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def of(cls, split: Split, on: Host) -> Images:
        """Move a split to the device."""
        return cls(torch.from_numpy(split.images).to(on.device), torch.from_numpy(split.labels).to(on.device))

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int, crop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of one epoch, shuffled and augmented; the images of an incomplete one are left out."""
        order = torch.randperm(len(self), device=self.labels.device)
        for chunk in order[: len(self) // size * size].split(size * 100):  # bounds the memory
            images = normalised(augmented(self.pixels[chunk], crop))
            yield from zip(images.split(size), self.labels[chunk].split(size), strict=True)


def augmented(pixels: Tensor, crop: int) -> Tensor:
    """Shift each image by up to ``crop`` pixels, reflected at the border, and mirror half of them.

    Args:
        pixels: Shape ``(B, C, H, W)``.
        crop: Largest shift (pixels).
    """
    n, _, height, width = pixels.shape
    device = pixels.device
    down, right = torch.randint(-crop, crop + 1, (2, n, 1), device=device)
    rows = reflected(torch.arange(height, device=device) + down, height)
    columns = reflected(torch.arange(width, device=device) + right, width)
    columns = torch.where(torch.rand(n, 1, device=device) < 0.5, columns.flip(1), columns)
    images = torch.arange(n, device=device)[:, None, None]
    return pixels.permute(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def reflected(index: Tensor, size: int) -> Tensor:
    """Mirror indices outside ``[0, size)`` at the first and the last pixel."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def normalised(pixels: Tensor) -> Tensor:
    """Turn bytes into float32 of mean 0 and standard deviation 1 over the training images."""
    mean, std = (torch.tensor(v)[:, None, None].to(pixels.device, non_blocking=True) for v in (MEAN, STD))
    images = (pixels.float() / 255 - mean) / std
    return images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Classify all images without compiled code, which would have to be compiled again, and return the accuracy (%)."""
    training, kind = model.training, images.labels.device.type
    model.eval()
    right = torch.zeros((), dtype=torch.int64, device=images.labels.device)
    with torch.compiler.set_stance("force_eager"), torch.autocast(kind, torch.bfloat16):
        for pixels, labels in zip(images.pixels.split(1000), images.labels.split(1000), strict=True):
            right += (model(normalised(pixels)).argmax(1) == labels).sum()
    model.train(training)
    return 100 * float(right) / len(images)
