"""The moving average that teaches a mix block, and what changes over a training: functions of the progress made."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import field

import torch
from torch import Tensor, nn

from mixwell.value import Value

BUFFERS = ("keep", "average", "copy")


class Schedule(Value, ABC):
    """A setting that changes over a training."""

    @abstractmethod
    def __call__(self, progress: float) -> float:
        """Return the value when this share of the training, in [0, 1], is done."""


class Cosine(Schedule):
    """Half a cosine from one value to another.

    Args:
        start: Value at the beginning.
        end: Value at the end.

    Note: the released code multiplies the factors of all steps up, so that its weight is gone after a few per cent of
    the training; this is what it means.

    Source: Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017 (arXiv:1608.03983).

    Example:
        >>> weight = Cosine(0.1, 0.0)
        >>> weight(0), round(weight(0.5), 3), weight(1)
        (0.1, 0.05, 0.0)
    """

    start: float = field(default=0.1, kw_only=False)
    end: float = field(default=0.0, kw_only=False)

    def __call__(self, progress: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2


class Momentum(Schedule):
    """How much of the teacher survives a step: constant at first, then rising along half a cosine.

    The cosine counts from the start of the training, as published, so that there is a small jump where it sets in.

    Args:
        base: Smallest momentum, in [0, 1].
        end: Momentum at the end, in [base, 1].
        warm: Share of the training that stays at ``base``, in [0, 1].
        until: Share of the training after which nothing changes any more, in [warm, 1].
        restart: Share of the training after each of which the student is copied, the very first step included unless
            that is warm-up; ``None`` does so only there.
        linear: Warm up along a line from ``base`` to ``end``, after which momentum falls back: as released, in no
            setting.

    Raises:
        ValueError: The settings are out of order or outside [0, 1].

    Source: Liu et al., *AutoMix: Unveiling the Power of Mixup for Stronger Classifiers*, ECCV 2022 (arXiv:2103.13027).

    Example:
        >>> momentum = Momentum(end=0.99999)
        >>> momentum(0.0), round(momentum(0.1), 8), round(momentum(0.5), 8), momentum(1.0)
        (0.999, 0.99902423, 0.999495, 0.99999)
    """

    base: float = 0.999
    end: float = 0.999999
    warm: float = 0.1
    until: float = 1.0
    restart: float | None = None
    linear: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.base <= self.end <= 1 or not 0 <= self.warm <= self.until <= 1:
            raise ValueError(
                "Momentum needs 0 <= base <= end <= 1 and 0 <= warm <= until <= 1, but got "
                f"base={self.base}, end={self.end}, warm={self.warm} and until={self.until}."
            )
        if self.until == 0 or (self.restart is not None and not self.restart > 0):
            raise ValueError(f"until and restart must be positive, but got {self.until} and {self.restart}.")

    def __call__(self, progress: float) -> float:
        rise = self.end - self.base
        if progress < self.warm:
            return self.end - rise * (self.warm - progress) / self.warm if self.linear else self.base
        progress = min(progress, self.until)
        rounds = 0.5 if self.restart is None else progress / self.restart
        if progress == 0 or (rounds > 0.5 and abs(rounds - round(rounds)) < 1e-9):
            return 0.0
        return self.end - rise * (1 + math.cos(math.pi * progress / self.until)) / 2


def at(value: float | Schedule, progress: float) -> float:
    """Read a setting that may be a number or a schedule.

    Example:
        >>> at(0.1, 0.5), round(at(Cosine(0.1, 0.0), 0.5), 3)
        (0.1, 0.05)
    """
    return value(progress) if isinstance(value, Schedule) else value


@torch.no_grad()
def average(own: Iterable[Tensor], other: Iterable[Tensor], momentum: float) -> None:
    """Move tensors towards others in place, ``own = momentum * own + (1 - momentum) * other``.

    A few launches for all tensors together, and nothing is read back from the device.

    Example:
        >>> own = torch.zeros(2)
        >>> average([own], [torch.ones(2)], momentum=0.75)
        >>> own
        tensor([0.2500, 0.2500])
    """
    own, other = list(own), list(other)
    if own and momentum < 1:
        torch._foreach_lerp_(own, other, 1 - momentum)


def copy_of(module: nn.Module) -> nn.Module:
    """Return a frozen copy, to be the teacher of the original."""
    return deepcopy(module).requires_grad_(False)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, momentum: float, buffers: str = "keep") -> None:
    """Move a teacher's parameters towards the student's, and treat its buffers (batch-norm statistics) as told.

    Args:
        teacher: Changed in place.
        student: Of the same make.
        momentum: How much of the teacher stays, in [0, 1].
        buffers: ``"keep"`` leaves them alone, ``"average"`` treats them like parameters (counters are copied),
            ``"copy"`` copies them.

    Raises:
        ValueError: ``buffers`` is none of the three.

    Example:
        >>> teacher, student = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
        >>> student.running_mean += 1
        >>> follow(teacher, student, 0.75, buffers="average")
        >>> teacher.running_mean
        tensor([0.2500])
    """
    if buffers not in BUFFERS:
        raise ValueError(f"buffers must be one of {', '.join(BUFFERS)}, but got {buffers!r}.")
    average(teacher.parameters(), student.parameters(), momentum)
    if buffers == "keep":
        return
    pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
    smooth = [pair for pair in pairs if buffers == "average" and pair[0].is_floating_point()]
    average([own for own, _ in smooth], [other for _, other in smooth], momentum)
    for own, other in pairs:
        if buffers == "copy" or not own.is_floating_point():
            own.copy_(other)
