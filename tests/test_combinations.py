"""Any method with any label policy, loss and sample policy: one step equals a plain loop, or is refused when built."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from catalogue import CLASSES, METHODS
from mixwell import (
    BatchPolicy,
    BinaryCrossEntropy,
    CrossEntropy,
    CutMix,
    LabelPolicy,
    Method,
    MixedBatch,
    MixUp,
    PixelShare,
    RatioShare,
    SemanticShare,
)
from plain_steps import STEPS


def squared_error(logits: Tensor, mixed: MixedBatch) -> Tensor:
    """A loss of a user's own."""
    return (logits.softmax(1) - mixed.targets(logits.shape[1])).square().sum(1).mean()


POLICIES: list[BatchPolicy] = [MixUp(), CutMix(scope="sample")]
LABELS: list[LabelPolicy] = [PixelShare(), RatioShare(), SemanticShare()]
LOSSES = [CrossEntropy(smoothing=0.1), BinaryCrossEntropy(), squared_error]
COMPARED = [make for make in METHODS if make.func in STEPS]


class Net(nn.Module):
    """The smallest model with a feature map and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3, 2, 1), nn.Linear(6, CLASSES)

    def rest(self, maps: Tensor) -> Tensor:
        return self.fc(maps.relu().mean((2, 3)))

    def features(self, images: Tensor) -> Tensor:
        return self.conv(images).relu().mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.conv(images))


def compare(make: Callable[..., Method], images: Tensor, labels: Tensor, parts: tuple) -> None:
    policy, label, loss = parts
    try:
        method = make(Net(), policy, label=label, loss=loss)
    except (TypeError, ValueError) as error:
        assert str(error).endswith("."), error  # noqa: PT017
        return
    results = []
    for step in (lambda: method(images, labels)["loss"], lambda: STEPS[type(method)](method, images, labels, parts)):
        torch.manual_seed(3)
        value = step()
        results.append([value, *torch.autograd.grad(value, [p for p in method.parameters() if p.requires_grad])])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", COMPARED, ids=str)
@pytest.mark.parametrize("label", LABELS, ids=repr)
def test_step_is_a_plain_loop(make: Callable[..., Method], label: LabelPolicy) -> None:
    """Loss and every gradient, for every loss and policy."""
    images, labels = torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6])
    for policy in POLICIES:
        for loss in LOSSES:
            compare(make, images, labels, (policy, label, loss))


@pytest.mark.parametrize("make", COMPARED, ids=str)
def test_dense_labels(make: Callable[..., Method]) -> None:
    """Labels as distributions with a softmax loss, and multi-label rows with a binary one."""
    images, label = torch.rand(4, 3, 8, 8), PixelShare()
    distributions = F.one_hot(torch.tensor([0, 3, 3, 6]), CLASSES).float() * 0.8 + 0.2 / CLASSES
    several = (torch.rand(4, CLASSES) > 0.6).float()
    for labels, loss in ((distributions, CrossEntropy()), (several, BinaryCrossEntropy())):
        compare(make, images, labels, (CutMix(), label, loss))


class Output:
    """What models of Hugging Face return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


@pytest.mark.parametrize("make", METHODS, ids=str)
@pytest.mark.parametrize("wrap", [Output, lambda logits: {"logits": logits}])
def test_outputs_with_logits(make: Callable[..., Method], wrap: Callable) -> None:
    """A model that returns an object or dict with logits trains like one that returns logits."""
    plain = Net()
    wrapped = Net()
    wrapped.load_state_dict(plain.state_dict())
    wrapped.rest = lambda maps: wrap(Net.rest(wrapped, maps))  # type: ignore[method-assign]
    images, labels, results = torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6]), []
    for model in (plain, wrapped):
        torch.manual_seed(3)
        method = make(model, MixUp())
        results.append(method(images, labels)["loss"])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_a_function_serves_as_policy(make: Callable[..., Method]) -> None:
    """Any callable with images, labels and model; a method that needs a plan refuses it when built."""

    def policy(images: Tensor, labels: Tensor, model: nn.Module | None = None) -> MixedBatch:
        return MixUp()(images, labels)

    try:
        method = make(Net(), policy)
    except TypeError as error:
        assert "object with the method draw" in str(error)  # noqa: PT017
        return
    assert method(torch.rand(4, 3, 8, 8), torch.arange(4))["loss"].isfinite()


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_the_model_is_free_after_a_step(make: Callable[..., Method]) -> None:
    """No hook stays, also after a step that fails; copies train alone, and a model may be wrapped twice."""
    model, images, labels = Net(), torch.rand(4, 3, 8, 8), torch.tensor([0, 3, 3, 6])
    first, second = make(model, MixUp()), make(model, MixUp())
    second.load_state_dict(first.state_dict())
    losses = []
    for method in (first, second, first):
        torch.manual_seed(3)
        losses.append(method(images, labels)["loss"])
        assert not any(module._forward_hooks for module in model.modules())
    assert losses[0].equal(losses[1]) and losses[0].equal(losses[2])
    with pytest.raises((RuntimeError, ValueError)):
        first(images[:, :2], labels)
    assert not any(module._forward_hooks for module in model.modules())
    torch.manual_seed(3)
    assert copy.deepcopy(first)(images, labels)["loss"].equal(losses[0])
    first.close()


@pytest.mark.parametrize("make", METHODS, ids=str)
def test_parts_follow_the_type_of_the_model(make: Callable[..., Method], device: torch.device) -> None:
    """Heads of a method have the type and device of the model."""
    method = make(Net().to(device, torch.float64), MixUp())
    assert {(p.dtype, p.device.type) for p in method.parameters()} == {(torch.float64, device.type)}
    images, labels = torch.rand(4, 3, 8, 8, dtype=torch.float64, device=device), torch.arange(4, device=device)
    method(images, labels)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
