"""Input gradients against finite differences, and the model left as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mixwell.saliency import InputGradient

LABELS = torch.zeros(1, dtype=torch.long)


class Net(nn.Module):
    """A small classifier with everything that a careless pass would disturb."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 6, 3, padding=1)
        self.frozen = nn.BatchNorm2d(6).eval()
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)
        self.frozen.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.frozen(self.conv(x))))
        return self.head(self.drop(x.square().mean((2, 3))) * 10)


def state(model: nn.Module) -> list:
    """Return everything about a model that must not change."""
    return [
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [parameter.grad is None for parameter in model.parameters()],
        [value.tolist() for value in model.state_dict().values()],
        torch.get_rng_state().tolist(),
    ]


@pytest.mark.parametrize("shape", [(2, 3, 6, 5), (1, 1, 4, 4), (3, 4, 3, 7)], ids=str)
def test_input_gradient_equals_finite_differences(shape: tuple[int, ...], device: torch.device) -> None:
    """The gradient of each image's own loss, found by moving every pixel a little."""
    model = Net(shape[1]).double().to(device)
    images = torch.rand(shape, dtype=torch.float64, device=device)
    labels = torch.randint(0, 5, shape[:1], device=device)
    found = InputGradient()(model, images, labels)
    model.eval()
    slope, step = torch.zeros_like(images), 1e-5
    for place in range(images[0].numel()):  # one pixel of every image at a time
        losses = []
        for sign in (1, -1):
            moved = images.clone()
            moved.view(len(images), -1)[:, place] += sign * step
            losses.append(-model(moved).log_softmax(1).gather(1, labels[:, None])[:, 0].detach())
        slope.view(len(images), -1)[:, place] = (losses[0] - losses[1]) / (2 * step)
    assert found.dtype == torch.float32
    assert found.double().allclose(slope.square().mean(1).sqrt(), rtol=1e-4, atol=1e-7)


def test_input_gradient_leaves_no_trace(device: torch.device) -> None:
    """Flags, gradients, statistics and random state stay, under no_grad, under autocast, and after an error."""
    model = Net().to(device)
    images, labels = torch.rand(4, 3, 8, 8, device=device), torch.arange(4, device=device)
    before = state(model)
    expected = InputGradient()(model, images, labels)
    assert state(model) == before
    assert not images.requires_grad
    assert not expected.requires_grad
    with torch.no_grad():
        assert InputGradient()(model, images, labels).equal(expected)
        assert not torch.is_grad_enabled()
    with torch.autocast(device.type, torch.bfloat16):
        lowered = InputGradient()(model, images, labels)
    assert lowered.dtype == torch.float32
    assert lowered.allclose(expected, atol=0.1 * expected.max().item())
    with pytest.raises(RuntimeError):
        InputGradient()(model, images[:, :2], labels)
    assert state(model) == before


def test_input_gradient_between_forward_and_backward(device: torch.device) -> None:
    """A pass between a training forward and its backward does not change that backward."""
    model = Net().to(device)
    model.drop.p = 0.0
    images, labels = torch.rand(4, 3, 8, 8, device=device), torch.arange(4, device=device)
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    InputGradient()(model, images, labels)
    loss.backward()
    found = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(found) == len(expected) == 7
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_input_gradient_labels_and_dtypes(dtype: torch.dtype, device: torch.device) -> None:
    """Dense labels equal indices, any floating dtype gives float32, and no image depends on the others."""
    model = Net().to(device, dtype)
    images, labels = torch.rand(4, 3, 8, 8, device=device).to(dtype), torch.tensor([0, 1, 4, 2], device=device)
    found = InputGradient()(model, images, labels)
    assert found.dtype == torch.float32
    for kind in (torch.float32, torch.float16):
        dense = torch.eye(5, device=device, dtype=kind)[labels]
        assert InputGradient()(model, images, dense).allclose(found, rtol=0.05, atol=1e-4)
    assert InputGradient()(model, images[:1], labels[:1]).allclose(found[:1], rtol=0.05, atol=1e-4)


def test_input_gradient_needs() -> None:
    """What is missing is said in one sentence."""
    images = torch.rand(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"call the policy with model=\.\.\., or pass saliency= maps"):
        InputGradient()(None, images, LABELS)
    with pytest.raises(ValueError, match=r"floating-point images, the model's input, got torch\.uint8"):
        InputGradient()(Net(), images.byte(), LABELS)
