"""What a training step is: a module that owns the classifier and returns a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.features.hooks import frozen_statistics
from mixwell.mixers.predictor import Seer
from mixwell.policies.schedule import at
from mixwell.policy import BatchPolicy
from mixwell.typecheck import hints_of, typechecked


class Method(nn.Module, ABC):
    """Owns the classifier and whatever else training needs; ``self.model`` is what you evaluate and ship.

    Calling a method is always a training step: it mixes and returns a loss in eval mode too, which only reaches the
    model.

    Args:
        model: The classifier, images ``(B, C, H, W)`` to logits ``(B, N)``.

    Raises:
        TypeError: The model is no module.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):  # settings are typed as those of values; a policy may be any callable
            cls.__init__ = typechecked(cls.__init__, (), partial(_settings_of, cls.__init__))

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be an nn.Module, but got {type(model).__name__}.")
        self.model = model

    @abstractmethod
    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Run one training step's forward passes.

        Args:
            images: Shape ``(B, C, H, W)``, floating point.
            labels: Class indices ``(B,)``, int64, or dense labels ``(B, N)``.

        Returns:
            ``{"loss": scalar, "output": logits (B, N), ...}``; other entries are scalars to log, without gradient.
        """

    def before_step(self, optimizer: Any) -> None:
        """Call this before every optimiser step, but not with a ``GradScaler``, which skips steps by itself.

        A method may leave out a step that is no number; without this call it only masks the gradient.
        """

    def after_step(self, progress: float) -> None:
        """Call this once after every optimiser step; scheduled policies move on.

        Args:
            progress: Share of the training that is done, in [0, 1].
        """
        self.follow(progress)

    def follow(self, progress: float) -> None:
        """Put scheduled policies where training stands, without counting a step: where a training is resumed."""
        policy = getattr(self, "policy", None)
        if isinstance(policy, BatchPolicy):
            self.policy = at(policy, progress)

    def seer(self) -> Seer | None:
        """Return the mix block that this method trains, with the network it looks through; None without one."""
        return None

    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameters for the optimiser, grouped where some want their own learning rate or decay."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]


@cache
def _settings_of(init: Callable[..., None]) -> dict[str, Any]:
    return {name: kind for name, kind in hints_of(init).items() if name not in ("model", "policy")}


def check_policy(policy: object) -> None:
    """Raise unless a policy can mix a batch: a policy object, or any callable that takes its place."""
    if isinstance(policy, type) or not callable(policy):
        raise TypeError(f"policy must be an object such as CutMix(alpha=0.2), but got {policy!r}.")


@contextmanager
def clean_pass(model: nn.Module, *, grad: bool = False, statistics: bool = False) -> Iterator[None]:
    """Predict the unmixed images beside the mixed ones, by default without gradient or moving batch-norm statistics."""
    running = nullcontext() if statistics else frozen_statistics(model)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()), running:
        yield
    if not grad and not torch.compiler.is_compiling():
        # Until torch 2.9, autocast reuses weights that it cast without gradient: the mixed pass would train nothing.
        torch.clear_autocast_cache()
