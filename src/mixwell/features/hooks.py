"""What happens inside a model: reading features during a forward, and running a model without leaving a trace."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class Tap:
    """Reads what goes into or comes out of one module whenever the model runs.

    Install taps before ``torch.compile`` and before wrapping in ``DistributedDataParallel``: a hook that is added to a
    compiled model never fires, and the graph of an untapped copy of the model may be reused for the tapped one. Only
    the last run is kept, with its graph, until ``take()``. A deep copy of the model feeds a tap of its own, which is at
    hand where model and tap are copied together, as attributes of one module are.

    Args:
        model: Any model.
        name: The module, as ``model.named_modules()`` calls it; None takes the classifier.
        of: ``"input"`` reads the module's first argument, ``"output"`` its result.

    Raises:
        ValueError: The model has no such module, or ``of`` is neither of the two.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
        >>> tap = Tap(model)
        >>> logits = model(torch.rand(2, 3, 8, 8))
        >>> tap.take().shape
        torch.Size([2, 6])
    """

    def __init__(self, model: nn.Module, name: str | None = None, of: Literal["input", "output"] = "input") -> None:
        if of not in ("input", "output"):
            raise ValueError(f'a tap reads the "input" or the "output" of a module, got of={of!r}')
        self.name, module = classifier_of(model) if name is None else (name, module_of(model, name))
        self.of = of
        self._captured: Any = None
        self._handle = module.register_forward_hook(self._capture, with_kwargs=True)

    def __repr__(self) -> str:
        return f"Tap({self.name!r}, of={self.of!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start empty: a feature inside a graph can be neither copied nor stored.
        return {**self.__dict__, "_captured": None}

    def _capture(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._captured = output if self.of == "output" else (*args, *kwargs.values())[0]

    def take(self) -> Tensor:
        """Return what the last forward left, and forget it.

        Raises:
            RuntimeError: Nothing came by since the last call.
            TypeError: Something came by that is not a tensor.
        """
        captured, self._captured = self._captured, None
        if captured is None:
            raise RuntimeError(
                f"the tap on the {self.of} of {self.name!r} captured nothing: either no forward has run through that "
                "module since the last take(), or the model (or the model it was copied from) was compiled before the "
                "tap was installed; build the tap, or the method that owns it, before torch.compile"
            )
        if not isinstance(captured, Tensor):
            raise TypeError(
                f"the {self.of} of {self.name!r} is a {type(captured).__name__}, and a tap reads one tensor: "
                "name a module next to it"
            )
        return captured

    def remove(self) -> None:
        """Take the hook off the model."""
        self._handle.remove()
        self._captured = None


def classifier_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Return name and module of the layer that makes logits from features.

    What ``model.get_classifier()`` returns, where there is such a method (timm); else the last ``nn.Linear`` in the
    order of ``named_modules()``.

    Raises:
        ValueError: There is no such layer, it was removed, or there are several.

    Example:
        >>> name, layer = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)))
        >>> name, layer.out_features
        ('3', 5)
    """
    if callable(getter := getattr(model, "get_classifier", None)):
        found = getter()
        if isinstance(found, nn.Identity):
            raise ValueError(
                f"the classifier of {type(model).__name__} is an Identity (num_classes=0): create the model with its "
                "number of classes, or name the module to tap"
            )
        for name, module in model.named_modules():
            if module is found:
                return name, module
        raise ValueError(
            f"{type(model).__name__}.get_classifier() returns a {type(found).__name__} and not one module of the "
            "model: name the module to tap"
        )
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"{type(model).__name__} has neither get_classifier() nor an nn.Linear: name the module whose input is "
            "the feature"
        )
    return linear[-1]


def pooled(features: Tensor) -> Tensor:
    """Return one feature vector per image: the mean over everything but batch and channel.

    Args:
        features: ``(B, D)``, tokens ``(B, N, D)``, or maps with channels first ``(B, D, ...)``.

    Returns:
        Shape ``(B, D)``.

    Raises:
        ValueError: ``features`` has fewer than two dimensions.

    Example:
        >>> import torch
        >>> pooled(torch.rand(2, 6, 4, 4)).shape, pooled(torch.rand(2, 17, 6)).shape
        (torch.Size([2, 6]), torch.Size([2, 6]))
    """
    if features.ndim < 2:
        raise ValueError(f"features must have shape (B, D), (B, N, D) or (B, D, ...), got {tuple(features.shape)}")
    if features.ndim == 3:
        return features.mean(1)
    return features.flatten(2).mean(2) if features.ndim > 3 else features


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode and give every module its own training flag back.

    Flags are set one by one: ``model.train()`` would also wake what was frozen, and models override it.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm1d(2).eval(), nn.Dropout())
        >>> with undisturbed(model):
        ...     model[1].training
        False
        >>> model[0].training, model[1].training
        (False, True)
    """
    awake = [module for module in model.modules() if module.training]
    try:
        for module in awake:
            module.training = False
        yield
    finally:
        for module in awake:
            module.training = True


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Normalise by the statistics of the batch without moving the running ones.

    Modules in eval mode are not touched: they keep normalising by their running statistics. A backward pass may come
    after the block.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_statistics(norm):
        ...     _ = norm(torch.rand(8, 2))
        >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """
    norms = [m for m in model.modules() if isinstance(m, (_BatchNorm, _InstanceNorm)) and m.training]
    norms = [m for m in norms if m.track_running_stats]
    # An instance norm in training mode writes to its buffers whatever the flag says, so they are taken away as well.
    buffers = [(m._buffers, name, m._buffers[name]) for m in norms if isinstance(m, _InstanceNorm) for name in _RUNNING]
    try:
        for module in norms:
            module.track_running_stats = False
        for owner, name, _ in buffers:
            owner[name] = None
        yield
    finally:
        for module in norms:
            module.track_running_stats = True
        for owner, name, value in buffers:
            owner[name] = value


_RUNNING = ("running_mean", "running_var")


def module_of(model: nn.Module, name: str) -> nn.Module:
    """Return the module that ``named_modules()`` calls ``name``, inside wrappers too, or raise with the nearest."""
    modules = dict(unwrapped(model).named_modules())
    if name not in modules:
        modules = dict(model.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3) or [key for key in modules if key][-3:]
        raise ValueError(f"{type(model).__name__} has no module {name!r}; the nearest names are {', '.join(near)}")
    return modules[name]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, ``DistributedDataParallel`` and the like, where hooks fire.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> unwrapped(nn.DataParallel(layer)) is layer
        True
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(model, "_orig_mod", None) if not isinstance(model, wrappers) else model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner
