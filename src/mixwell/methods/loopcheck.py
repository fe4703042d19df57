"""Warnings about training loops that leave out what a method needs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from torch import nn

from mixwell.typecheck import is_schedule
from mixwell.value import Value

if TYPE_CHECKING:
    from mixwell.methods.method import Method

_STEPS, _PASSES = 3, 16


class LoopCheck:
    """Warns once if ``after_step`` is never called, and once if the optimizer lacks parameters of the method.

    An optimizer changes parameters in place, which increases their version counter; nothing is read from the device. A
    parameter that had gradients in two optimizer steps and did not change is not in the optimizer. The check ends after
    a few steps.

    Attributes:
        looking: Whether the check goes on.
    """

    def __init__(self) -> None:
        self.looking = True
        self._told = self._named = False
        self._steps = self._passes = self._calls = 0
        self._version: int | None = None
        self._first: dict[str, int] = {}
        self._unchanged: dict[str, int] = {}

    def before_forward(self, method: Method) -> None:
        """Look at the parameters before a forward pass with gradient, as long as nobody calls ``after_step``."""
        if self._told:
            return
        self._passes += 1
        self._look(method)
        if self._steps < _STEPS and self._passes <= _PASSES:
            return
        self.looking = False
        if method.needs_after_step or method._schedules or any(map(_changes, vars(method).values())):
            warnings.warn(
                f"{type(method).__name__} has run {self._passes - 1} training steps without a call of after_step: its "
                "schedules stay at their first number, and a teacher does not follow the model. Call "
                "method.after_step(progress) after every optimizer step, with progress in [0, 1].",
                stacklevel=4,
            )

    def after_step(self, method: Method) -> None:
        """Look at the parameters after each of the first optimizer steps."""
        self._told, self._calls = True, self._calls + 1
        self._look(method)
        self.looking = self._calls <= _STEPS

    def _look(self, method: Method) -> None:
        trained = {name: p for name, p in method.named_parameters() if p.requires_grad}
        version = sum(p._version for p in trained.values())
        stepped = self._version not in (None, version)
        self._version = version
        if not self._first:
            self._first = {name: p._version for name, p in trained.items()}
        if not stepped:
            return
        self._steps += 1
        for name, p in trained.items():
            if not name.startswith("model.") and p.grad is not None and p._version == self._first.get(name):
                self._unchanged[name] = self._unchanged.get(name, 0) + 1
        forgotten = [name for name, steps in self._unchanged.items() if steps >= 2]
        if forgotten and not self._named:
            self._named = True
            warnings.warn(
                f"The optimizer does not update {len(forgotten)} parameters that {type(method).__name__} trains beside "
                f"the model, such as {forgotten[0]!r}: create it with method.param_groups() instead of "
                "model.parameters().",
                stacklevel=5,
            )


def _changes(setting: object) -> bool:
    """Return whether a setting is a schedule, or contains one."""
    return not isinstance(setting, nn.Module) and (
        is_schedule(setting) or (isinstance(setting, Value) and setting._changes)
    )
