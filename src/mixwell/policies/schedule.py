"""Policies that change while training goes on."""

from __future__ import annotations

from dataclasses import field, fields, replace
from typing import Any, get_args

from torch import Tensor

from mixwell.batch import Batch
from mixwell.plan import Plan
from mixwell.policy import BatchPolicy, NoMix
from mixwell.typecheck import hints_of
from mixwell.value import set_field


class ByProgress(BatchPolicy):
    """One policy after another.

    Being a value it does not know how far training is: ``at(progress)`` returns the schedule standing there, which
    a method takes up after every step. As it is made it stands at the start.

    Args:
        policies: What mixes, in order.
        since: The progress from which on each does, in [0, 1), rising from 0; ``None`` gives each the same time.
        stage: Which of them mixes now.

    Raises:
        ValueError: Policies and their starts do not fit, or the stage does not exist.

    Example:
        >>> from mixwell import CutMix, MixUp
        >>> schedule = ByProgress([MixUp(), CutMix()], since=[0, 0.6])
        >>> schedule.at(0.5), schedule.at(0.6)
        (ByProgress(policies=(MixUp(), CutMix()), since=(0, 0.6)),
         ByProgress(policies=(MixUp(), CutMix()), since=(0, 0.6), stage=1))
    """

    policies: tuple[BatchPolicy, ...] = field(default=(), kw_only=False)
    since: tuple[float, ...] | None = None
    stage: int = 0

    def __post_init__(self) -> None:
        set_field(self, "policies", tuple(self.policies))
        n = len(self.policies)
        if not n or not all(isinstance(p, BatchPolicy) for p in self.policies):
            raise ValueError(f"ByProgress needs a list of policies, but got {list(self.policies)}.")
        if self.since is not None:
            set_field(self, "since", tuple(self.since))
        starts = tuple(k / n for k in range(n)) if self.since is None else self.since
        if len(starts) != n or starts[0] != 0 or list(starts) != sorted(set(starts)) or not starts[-1] < 1:
            raise ValueError(
                f"since must rise from 0 and stay below 1, one number for each of {n} policies, but got {starts}."
            )
        if self.stage not in range(n):
            raise ValueError(f"stage must be one of the {n} policies, counted from 0, but got {self.stage}.")
        set_field(self, "_starts", starts)

    def at(self, progress: float) -> ByProgress:
        """Return the schedule as it stands when this share of the training is done; itself where nothing changes."""
        starts: tuple[float, ...] = self._starts  # type: ignore[attr-defined]  # set when the settings were checked
        stage = sum(progress >= start for start in starts[1:])
        inner = at(self.policies[stage], progress)
        if stage == self.stage and inner is self.policies[stage]:
            return self
        policies = (*self.policies[:stage], inner, *self.policies[stage + 1 :])
        return replace(self, policies=policies, stage=stage)

    def current(self) -> BatchPolicy:
        """Return the policy that mixes now."""
        return self.policies[self.stage]

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        return self.current()._draw(batch, partner)


class Ramp(BatchPolicy):
    """A policy one of whose settings, a ratio or a probability say, moves from one number to another.

    See :class:`ByProgress` for who moves it.

    Args:
        policy: The policy.
        setting: The name of the setting; one that counts something is rounded.
        start: Its value when the ramp begins.
        end: Its value when the ramp is over.
        since: The progress at which the ramp begins.
        until: The progress at which it is over.
        progress: Where it stands.

    Raises:
        ValueError: The policy has no such setting, refuses an end of the ramp, or the times are out of order.

    Example:
        >>> from mixwell import CutMix, Sometimes
        >>> ramp = Ramp(Sometimes(CutMix()), "p", start=0.0, end=1.0)
        >>> ramp.at(0.25).current()
        Sometimes(policy=CutMix(), p=0.25)
    """

    policy: BatchPolicy = field(default=NoMix(), kw_only=False)
    setting: str = field(default="", kw_only=False)
    start: float = 0.0
    end: float = 1.0
    since: float = 0.0
    until: float = 1.0
    progress: float = 0.0

    def __post_init__(self) -> None:
        names = [f.name for f in fields(self.policy)]
        if not self.setting:
            raise ValueError("Ramp needs a policy and one of its settings, such as Ramp(MixUp(), 'alpha', end=2.0).")
        if self.setting not in names:
            raise ValueError(f"{self.policy} has no setting {self.setting!r}; it has {', '.join(names) or 'none'}.")
        if not 0 <= self.since < self.until <= 1:
            raise ValueError(f"A ramp needs 0 <= since < until <= 1, but got {self.since} and {self.until}.")
        kind = hints_of(type(self.policy)).get(self.setting)
        kinds = (kind, *get_args(kind))
        set_field(self, "_counts", int in kinds and float not in kinds)
        for value in (self.start, self.end):
            self._at(value)

    def at(self, progress: float) -> Ramp:
        """Return the ramp as it stands when this share of the training is done."""
        return self if progress == self.progress else replace(self, progress=progress)

    def current(self) -> BatchPolicy:
        """Return the policy with the setting as it is now."""
        done = min(max((self.progress - self.since) / (self.until - self.since), 0.0), 1.0)
        return self._at((1 - done) * self.start + done * self.end)

    def _at(self, value: float) -> BatchPolicy:
        counts: bool = self._counts  # type: ignore[attr-defined]  # set when the settings were checked
        return replace(self.policy, **{self.setting: round(value) if counts else value})

    def _draw(self, batch: Batch, partner: Tensor | None = None) -> Plan:
        return self.current()._draw(batch, partner)


def until(policy: BatchPolicy, progress: float) -> ByProgress:
    """Return a policy that is switched off for the rest of the training.

    Args:
        policy: What mixes before.
        progress: The share of the training after which nothing is mixed, in (0, 1).

    Raises:
        ValueError: The share is out of range.

    Example:
        >>> from mixwell import CutMix
        >>> until(CutMix(), 0.9)
        ByProgress(policies=(CutMix(), NoMix()), since=(0.0, 0.9))
    """
    return ByProgress((policy, NoMix()), since=(0.0, progress))


def at(policy: Any, progress: float) -> Any:
    """Return a policy as it stands at this progress: schedules wherever they are in it move, anything else stays.

    Example:
        >>> from mixwell import CutMix, Sometimes
        >>> at(Sometimes(until(CutMix(), 0.5)), 0.7)
        Sometimes(policy=ByProgress(policies=(CutMix(), NoMix()), since=(0.0, 0.5), stage=1))
    """
    if isinstance(policy, ByProgress | Ramp):
        return policy.at(progress)
    if not isinstance(policy, BatchPolicy):
        return policy
    changed = {}
    for f in fields(policy):
        old = getattr(policy, f.name)
        new = _moved(old, progress)
        if new is not old:
            changed[f.name] = new
    return replace(policy, **changed) if changed else policy


def _moved(value: Any, progress: float) -> Any:
    if isinstance(value, BatchPolicy):
        return at(value, progress)
    if isinstance(value, tuple) and any(isinstance(v, BatchPolicy) for v in value):
        moved = tuple(at(v, progress) for v in value)
        return value if all(a is b for a, b in zip(value, moved, strict=True)) else moved
    return value
