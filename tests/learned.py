"""A classifier with stages, blocks whose masks differ from a half, and which loss trains which parameters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from mixwell import AdAutoMix, AutoMix

Learned = AutoMix | AdAutoMix


class Net(nn.Module):
    """Three stages, the second of which is read by the block."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layer1 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8) if norm else nn.Identity())
        self.layer2 = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1))
        self.layer3 = nn.Sequential(
            nn.ReLU(), nn.Conv2d(12, 16, 3, 2, 1), nn.BatchNorm2d(16) if norm else nn.Identity()
        )
        self.drop, self.fc = nn.Dropout(0.0), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.drop(self.layer3(self.layer2(self.layer1(self.stem(x)))).relu().mean((2, 3))))


def awake(method: Any) -> Any:
    """Give the block weights with which masks differ from a half."""
    with torch.no_grad():
        for parameter in method.block.parameters():
            parameter.normal_(std=0.3)
    return method


def read_card(path: str | Path) -> dict[str, Any]:
    """Return the description in the header of a mask's file."""
    raw = Path(path).read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return json.loads(header["__metadata__"]["mixwell"])


def moved(method: Learned) -> dict[str, bool]:
    """Return which parameters have a gradient that is not zero."""
    return {n: p.grad is not None and bool(p.grad.any()) for n, p in method.named_parameters()}


def terms_of(method: Learned, *batch: Tensor) -> dict[str, Tensor]:
    """Return the losses of a step with their graphs."""
    with mock.patch.object(method, "step_output", wraps=method.step_output) as report:
        method(*batch)
    return {"loss": report.call_args.args[0], **report.call_args.kwargs}


def grads(loss: Tensor, module: nn.Module) -> list[bool]:
    """Return which trainable parameters a loss has a gradient for."""
    trained = [p for p in module.parameters() if p.requires_grad]
    if not trained or not loss.requires_grad:
        return [False] * len(trained)
    return [
        g is not None and bool(g.any())
        for g in torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
    ]
