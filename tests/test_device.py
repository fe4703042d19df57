"""Methods on the device of ``--device``: the numbers of a CPU, and the same when compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mixwell as mw
from mixwell.models import mini_resnet

FIXED = mw.MixUp(alpha=mw.Constant(0.3), pairing=mw.Roll())  # nothing random: two devices draw different numbers
METHODS: dict[str, Callable[[torch.nn.Module], mw.Method]] = {
    "Mixing": lambda model: mw.Mixing(model, FIXED, num_classes=10),
    "SUMix": lambda model: mw.SUMix(model, FIXED, num_classes=10),
    "AutoMix": lambda model: mw.AutoMix(model, FIXED, num_classes=10),
}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(6, 3, 32, 32), torch.arange(6)


def losses(method: mw.Method, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Take three steps of gradient descent and return their losses."""
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer, found = torch.optim.SGD(parameters, lr=0.01), []
    for step in range(3):
        optimizer.zero_grad()
        loss = method(images, labels)["loss"]
        loss.backward()
        optimizer.step()
        method.after_step((step + 1) / 3)
        found.append(loss.detach().cpu())
    return found


@every_method
def test_device_has_the_losses_of_the_cpu(make: Callable[..., mw.Method], device: torch.device) -> None:
    """Three steps in float32 give the same losses, so gradients and ``after_step`` agree as well."""
    if device.type == "cpu":
        pytest.skip("compares another device with the CPU: give one with --device")
    method, (images, labels) = make(mini_resnet(10)), batch()
    elsewhere = copy.deepcopy(method).to(device)
    expected = losses(method, images, labels)
    torch.testing.assert_close(losses(elsewhere, images.to(device), labels.to(device)), expected, rtol=2e-3, atol=2e-4)


@every_method
def test_compiled_step_has_the_losses_of_the_eager_one(make: Callable[..., mw.Method], device: torch.device) -> None:
    """The whole method compiled; on a CPU without code generation, which other tests cover."""
    torch.compiler.reset()
    method, (images, labels) = make(mini_resnet(10)).to(device), (t.to(device) for t in batch())
    compiled = copy.deepcopy(method)
    compiled.compile(backend="eager" if device.type == "cpu" else "inductor")
    expected = losses(method, images, labels)
    torch.testing.assert_close(losses(compiled, images, labels), expected, rtol=2e-3, atol=2e-4)
    torch.compiler.reset()
