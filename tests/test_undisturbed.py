"""The blocks in which a model runs and stays as it was, eager and compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from mixwell.features.isolation import undisturbed
from mixwell.features.passes import frozen_statistics
from mixwell.saliency import InputGradient


@pytest.fixture
def model(device: torch.device) -> nn.Sequential:
    body = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    return nn.Sequential(*body).to(device)


@pytest.fixture
def images(device: torch.device) -> Tensor:
    return torch.rand(4, 3, 8, 8, device=device)


@pytest.fixture
def compiled() -> Iterator[Callable[[nn.Module], Callable]]:
    """Compile without a code generator: what matters here is which flags and buffers a graph was made for."""
    yield lambda module: torch.compile(module, backend="aot_eager")
    torch.compiler.reset()


class Stubborn(nn.Dropout):
    """A module that counts calls of ``train`` and ``eval``, which a careless helper would make."""

    calls = 0

    def train(self, mode: bool = True) -> Stubborn:
        self.calls += 1
        return super().train(mode)


def test_undisturbed() -> None:
    """Inside everything is in eval mode; after, even after an error, every module is as it was."""
    model = nn.Sequential(Stubborn(), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()).eval(), nn.Linear(2, 2))
    model[1][1].training = True
    before = [module.training for module in model.modules()]
    with undisturbed(model) as nothing:
        assert nothing is None
        assert not any(module.training for module in model.modules())
    with pytest.raises(ValueError, match="one forward"), undisturbed(model):
        raise ValueError("one forward that fails")
    assert [module.training for module in model.modules()] == before == [True, True, False, False, True, True]
    assert model[0].calls == 0


class OwnNorm(nn.Module):
    """A norm that shares nothing with torch's but the names of its buffers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        var = x.var((0, 2, 3)) if self.training else self.running_var
        if self.training:
            self.running_var.copy_(self.running_var * 0.9 + 0.1 * var.detach())
        return x / var[:, None, None].sqrt() * self.weight[:, None, None]


class OwnBatchNorm(nn.BatchNorm2d):
    """A batch norm that always updates its statistics, whatever the flag says."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, self.running_mean, self.running_var, training=self.training)


NORMS: list[Callable[[], nn.Module]] = [
    lambda: nn.BatchNorm2d(3),
    lambda: nn.BatchNorm2d(3, momentum=None),
    lambda: nn.SyncBatchNorm(3),
    lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
    lambda: nn.BatchNorm2d(3, track_running_stats=False),
    lambda: OwnNorm(3),
    lambda: OwnBatchNorm(3),
    lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 3, 5, padding=2)),
]


@pytest.mark.parametrize("make", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_frozen_statistics(make: Callable[[], nn.Module], training: bool, device: torch.device) -> None:
    """Output and gradients as without the block, buffers as if nothing had run, and moving again afterwards."""
    norm = make().to(device)
    images = (torch.rand(4, 3, 5, 5, device=device) * 3).requires_grad_()
    if isinstance(norm, nn.SyncBatchNorm) and device.type == "cpu" and training:
        pytest.skip("SyncBatchNorm trains on accelerators only")
    norm(images.detach()) if not isinstance(
        norm, nn.SyncBatchNorm
    ) else None  # statistics that are not the initial ones
    norm.train(training)
    before = copy.deepcopy(norm)
    with frozen_statistics(norm):
        found = norm(images)
    assert all(a.equal(b) for a, b in zip(norm.state_dict().values(), before.state_dict().values(), strict=True))
    assert norm.state_dict().keys() == before.state_dict().keys()
    assert getattr(norm, "track_running_stats", None) == getattr(before, "track_running_stats", None)
    weight = torch.rand_like(images)
    slopes = [torch.autograd.grad((y * weight).sum(), images)[0] for y in (found, before(images))]
    assert slopes[0].allclose(slopes[1], atol=1e-6)
    norm(images)
    assert all(a.allclose(b) for a, b in zip(norm.state_dict().values(), before.state_dict().values(), strict=True))


def test_frozen_statistics_compiled(model: nn.Sequential, images: Tensor, compiled: Callable) -> None:
    """A compiled model keeps its statistics inside the block, moves them outside, and its backward works."""
    forward, start = compiled(model), copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(model)(images)
    with frozen_statistics(model):
        logits = forward(images)
    logits.sum().backward()
    assert logits.allclose(expected, atol=1e-5)
    assert model[0].weight.grad is not None
    assert all(value.equal(start[key]) for key, value in model.state_dict().items())
    forward(images)
    assert model[1].num_batches_tracked == 1
    assert not model[1].running_mean.equal(start["1.running_mean"])


def test_undisturbed_compiled(model: nn.Sequential, images: Tensor, compiled: Callable) -> None:
    """Input gradients of a compiled model equal those of the plain one, and its flags come back."""
    labels = torch.arange(4, device=images.device)
    expected, start = InputGradient()(model, images, labels), copy.deepcopy(model.state_dict())
    assert InputGradient()(compiled(model), images, labels).allclose(expected, atol=1e-6)
    assert all(module.training for module in model.modules())
    assert all(value.equal(start[key]) for key, value in model.state_dict().items())


def test_frozen_statistics_of_timm(compiled: Callable) -> None:
    """EvoNorm keeps its variance, eager and compiled, and its backward works."""
    layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    for compile_it in (False, True):
        norm = layers.EvoNorm2dB0(4)
        forward, start = compiled(norm) if compile_it else norm, norm.running_var.clone()
        images = torch.rand(4, 4, 5, 5).requires_grad_()
        with frozen_statistics(norm):
            found = forward(images)
        found.square().sum().backward()
        assert norm.running_var.equal(start) and images.grad is not None
        forward(images)
        assert not norm.running_var.equal(start)
