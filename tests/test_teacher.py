"""Momentum, moving averages and the teacher against closed forms and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mixwell import AutoMix, CutMix, Mixing, SUMix
from mixwell.ema import EMA, follow, frozen_copy
from mixwell.mixers.heads import Heads
from mixwell.mixers.published import ReleasedMomentum
from mixwell.mixers.teacher import Momentum, Teacher
from mixwell.models import mini_resnet
from steps import Net, data


def test_published_values() -> None:
    momentum = Momentum(end=0.99999)
    assert momentum(0.1) == pytest.approx(0.99902423, abs=1e-8)
    assert momentum(0.5) == pytest.approx(0.99949500, abs=1e-8)
    assert momentum(0.0) == momentum(0.0999) == 0.999


@pytest.mark.parametrize("warm", [0.0, 0.1, 0.25])
def test_momentum_by_iterations(warm: float) -> None:
    base, end, total = 0.99, 0.9999, 200
    momentum = Momentum(base=base, end=end, warm=warm)
    for t in range(total + 1):
        expected = base if t < warm * total else end - (end - base) * (math.cos(math.pi * t / total) + 1) / 2
        assert momentum(t / total) == pytest.approx(expected, abs=1e-12), t


def test_released_momentum() -> None:
    momentum = ReleasedMomentum(until=0.5)
    assert momentum(0.7) == momentum(0.5) == 0.999999
    zero = [ReleasedMomentum(warm=0.0, restart=0.25)(t) == 0 for t in (0.0, 0.2, 0.25, 0.3, 0.5)]
    assert zero == [True, False, True, False, True]
    assert ReleasedMomentum(warm=0.5, linear=True)(0.25) == pytest.approx((0.999 + 0.999999) / 2)
    for progress in (0.0, 0.05, 0.1, 0.6, 1.0):
        assert ReleasedMomentum()(progress) == Momentum()(progress)


@pytest.mark.parametrize(
    "wrong", [{"base": 1.1}, {"base": 0.9, "end": 0.8}, {"warm": 0.6, "until": 0.5}, {"restart": 0.0}, {"warm": 1.5}]
)
def test_wrong_momentum(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Momentum needs|must be positive|must lie in"):
        ReleasedMomentum(**wrong)


def test_average_closed_form(device: torch.device) -> None:
    own, other = (nn.ParameterList([torch.randn(5, 7, device=device)]) for _ in range(2))
    start, target = own[0].detach().clone(), other[0].detach().clone()
    for _ in range(10):
        follow(own, other, 0.9)
    torch.testing.assert_close(own[0].detach(), 0.9**10 * start + (1 - 0.9**10) * target)
    follow(own, other, 0.0)
    assert torch.equal(own[0], target)
    follow(own, nn.ParameterList([start]), 1.0)
    assert torch.equal(own[0], target)


@pytest.mark.parametrize("buffers", ["keep", "average", "copy"])
def test_follow(buffers: str) -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    teacher = frozen_copy(student)
    student(torch.randn(8, 3, 4, 4) + 1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    follow(teacher, student, 0.75, buffers)
    for name, value in teacher.state_dict().items():
        other = student.state_dict()[name]
        blend = 0.75 * before[name] + 0.25 * other
        if name in dict(teacher.named_parameters()):
            torch.testing.assert_close(value, blend)
        elif buffers == "keep":
            assert torch.equal(value, before[name])
        elif buffers == "copy" or not value.is_floating_point():
            assert torch.equal(value, other)
        else:
            torch.testing.assert_close(value, blend)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_follow_wrong_buffers() -> None:
    with pytest.raises(ValueError, match="keep, average, copy"):
        follow(nn.Linear(1, 1), nn.Linear(1, 1), 0.5, buffers="none")


def test_ema_against_a_plain_loop() -> None:
    """Weights, statistics and counters; the decay grows with the steps."""
    model = Net(norm=True)
    ema = EMA(model, decay=0.6)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(12):
        model(data()[0]).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(model, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            moving = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if moving else value.clone()
    torch.testing.assert_close(dict(ema.module.state_dict()), expected)
    assert not ema.module.training and not any(p.requires_grad for p in ema.parameters())
    with pytest.raises(ValueError, match="decay"):
        EMA(model, decay=1.0)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("make", [Mixing, SUMix, AutoMix])
def test_ema_of_a_wrapped_model_is_that_of_the_model(make: type, compiled: bool) -> None:
    """Copies made before, inside and after a step hold no hook, and average like the model alone."""
    model, alone = mini_resnet(10), mini_resnet(10)
    alone.load_state_dict(model.state_dict())
    if compiled:
        torch.compiler.reset()  # graphs of the same network without hooks would be used again
        model.compile(backend="eager")
    method = make(model, CutMix(), num_classes=10)
    emas = [EMA(method.model, 0.5)]
    method(*data(size=32))["loss"].backward()
    emas.append(EMA(method.model, 0.5))
    torch.optim.SGD(method.param_groups(), lr=0.1).step()
    method.after_step(0.5)
    plain = EMA(alone, 0.5)
    alone.load_state_dict(method.model.state_dict())
    plain.update(alone, 100)
    emas[0].update(method.model, 100)
    assert [hooks(ema.module) for ema in emas] == [0, 0]
    torch.testing.assert_close(emas[0].module.state_dict(), plain.module.state_dict(), check_stride=False)
    images = data(size=32)[0]
    torch.testing.assert_close(emas[0].module(images), plain.module(images))


def test_teacher_reads_without_a_trace() -> None:
    """Features stop at the layer and have no graph; a pass over mixed images sends its gradient to the images only."""
    model, images = mini_resnet(10), data(size=32)[0]
    teacher = Teacher(model, Heads(model), buffers="average")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    features = teacher.features(images)
    again, logits = teacher.features_and_logits(images)
    torch.testing.assert_close(features, again)
    assert not features.requires_grad and not logits.requires_grad
    images.requires_grad_()
    teacher(images).sum().backward()
    assert images.grad is not None and images.grad.any() and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert hooks(teacher) == hooks(model) == 0
