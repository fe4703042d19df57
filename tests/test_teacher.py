"""Schedules and the moving average against closed forms and plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mixwell.mixers.teacher import Cosine, Momentum, at, average, copy_of, follow


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
        if t == 0 and warm == 0:
            expected = 0.0  # the student is copied
        assert momentum(t / total) == pytest.approx(expected, abs=1e-12), t


def test_momentum_stops_and_restarts() -> None:
    momentum = Momentum(until=0.5)
    assert momentum(0.7) == momentum(0.5) == 0.999999
    assert [Momentum(warm=0.0, restart=0.25)(t) == 0 for t in (0.0, 0.2, 0.25, 0.3, 0.5)] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert Momentum(warm=0.5, linear=True)(0.25) == pytest.approx((0.999 + 0.999999) / 2)


def test_weight_schedule() -> None:
    weight = Cosine(0.3, 0.05)
    assert [round(weight(t), 6) for t in (0, 0.5, 1)] == [0.3, 0.175, 0.05]
    assert at(weight, 1.0) == pytest.approx(0.05) and at(0.1, 1.0) == 0.1


@pytest.mark.parametrize(
    "wrong", [{"base": 1.1}, {"base": 0.9, "end": 0.8}, {"warm": 0.6, "until": 0.5}, {"restart": 0.0}]
)
def test_wrong_momentum(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"Momentum needs|must be positive"):
        Momentum(**wrong)


def test_average_closed_form(device: torch.device) -> None:
    start, target = torch.randn(5, 7, device=device), torch.randn(5, 7, device=device)
    own = start.clone()
    for _ in range(10):
        average([own], [target], 0.9)
    torch.testing.assert_close(own, 0.9**10 * start + (1 - 0.9**10) * target)
    average([own], [target], 0.0)
    assert torch.equal(own, target)
    average([own], [start], 1.0)
    assert torch.equal(own, target)


@pytest.mark.parametrize("buffers", ["keep", "average", "copy"])
def test_follow(buffers: str) -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    teacher = copy_of(student)
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
