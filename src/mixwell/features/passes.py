"""The forward passes of a training step: logits, features that a hook reads or changes, unchanged statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mixwell.features.layers import classifier_of, computes_logits, middle_layer, module_of
from mixwell.features.maps import as_maps

Change = Callable[[Tensor], Tensor]


def logits_of(output: Any) -> Tensor:
    """Return the logits in the output of a model: a tensor itself, or the ``logits`` of a Hugging Face output.

    Raises:
        TypeError: The output is neither.
        ValueError: The logits do not have the shape (B, N).

    Example:
        >>> from types import SimpleNamespace
        >>> logits_of(SimpleNamespace(logits=torch.zeros(2, 3))).shape
        torch.Size([2, 3])
    """
    logits = output
    if not isinstance(output, Tensor):
        logits = output.get("logits") if isinstance(output, dict) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"The model must return logits, a tensor (B, N) or an output with the attribute logits, but it returned a "
            f"{type(output).__name__}: wrap it in a module that returns the logits."
        )
    if logits.dim() != 2:
        raise ValueError(
            f"The model must return logits (B, N), but returned {tuple(logits.shape)}: wrap it in a module that does."
        )
    return logits


class _Stop(Exception):  # noqa: N818  (not an error: it ends a forward pass at the layer)
    """Raised by the hook when a forward pass has reached the layer."""


class FeatureHook:
    """Reads the input or output of one module of a model, or replaces its output, inside a ``with`` block.

    The hook is on the module only inside the block, so that the model can be copied, scripted and exported afterwards,
    and several hooks can share a module. In a model compiled by ``torch.compile`` the hook stays, without effect
    outside the block, until :meth:`close`: the compiled graph contains it. For the same reason a compiled model must
    not run before the hook is created or, if it is compiled later, before the hook is first used.

    Only the last forward pass is kept, with its graph, until :meth:`take`.

    Args:
        model: Any model; wrappers such as ``DistributedDataParallel`` are looked through.
        name: Name of the module in ``model.named_modules()``; None looks for the layer that computes the logits, see
            :func:`classifier_of`, and the first :meth:`take` checks it.
        of: ``"input"`` reads the module's first argument, ``"output"`` its result.
        num_classes: Width of the logits, if known, which helps to find the layer.

    Raises:
        ValueError: The model has no such module, or ``of`` is neither of the two.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
        >>> hook = FeatureHook(model)
        >>> with hook:
        ...     logits = model(torch.rand(2, 3, 8, 8))
        >>> hook.take(logits).shape
        torch.Size([2, 6])
    """

    def __init__(
        self,
        model: nn.Module,
        name: str | None = None,
        of: Literal["input", "output"] = "input",
        num_classes: int | None = None,
    ) -> None:
        if of not in ("input", "output"):
            raise ValueError(f'of must be "input" or "output", but got {of!r}.')
        found = classifier_of(model, num_classes) if name is None else (name, module_of(model, name))
        self.name, self.module = found
        self.of = of
        self._guessed = name is None and not callable(getattr(model, "get_classifier", None))
        self._output: Any = None  # of a guessed classifier
        self._active = self._stops = False
        self._compiled = any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in model.modules())
        self._change: Change | None = None
        self._captured: Any = None
        self._handle: Any = None
        if self._compiled:
            self._attach()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, of={self.of!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles start empty: a feature inside a graph can be neither copied nor stored.
        return {**self.__dict__, "_captured": None, "_output": None, "_change": None, "_active": False}

    def __enter__(self) -> Self:
        self._captured, self._active = None, True
        if torch.compiler.is_compiling():
            self._attach()
        elif self._handle is None:
            self._handle = self.module.register_forward_hook(self._call, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._active = False
        if torch.compiler.is_compiling() or self._compiled or self._handle is None:
            return
        self._handle.remove()
        self._handle = None

    def _attach(self) -> None:
        if self._handle is None:
            self._handle = self.module.register_forward_hook(self._call, with_kwargs=True)

    # torch.compile runs this while it traces, and traces the rest with the hook in place; the public decorator,
    # torch.compiler.assume_constant_result, would import the compiler with this file.
    _attach._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if torch.compiler.is_compiling():
            self._compiled = True
        if not self._active:
            return None
        if self._change is None:
            self._captured = output if self.of == "output" else (*args, *kwargs.values())[0]
            if self._guessed:
                self._output = output
            if self._stops and not torch.compiler.is_compiling():
                raise _Stop
            return None
        change, self._change = self._change, None
        if not isinstance(output, Tensor):
            raise TypeError(f"{self._described(output)} instead of one tensor: name a module next to it.")
        # __call__ is spelled out: until 2.7 torch.compile guards what is called by its identity, new at every step.
        return change.__call__(output)

    def take(self, logits: Tensor | None = None, *, forget: bool = True) -> Tensor:
        """Return the tensor that the hook kept in the last forward pass inside the block, and drop it.

        Args:
            logits: What the model returned, shape ``(B, N)``: compared once with the output of a guessed classifier.
            forget: Drop the tensor; with False it can be taken once more.

        Raises:
            RuntimeError: No forward pass ran through the module.
            TypeError: What was read is not a tensor.
            ValueError: The classifier was guessed, and its output is not the logits.
        """
        if self._guessed and logits is not None:
            self._guessed, output, self._output = False, self._output, None
            if not computes_logits(output, logits):
                raise ValueError(
                    f"{self.name!r} looked like the classifier, but its output is not what the model returns: name "
                    'the layer that computes the logits, as in classifier="head.fc".'
                )
        captured, self._captured = self._captured, None if forget else self._captured
        if captured is None:
            raise RuntimeError(self._unused())
        if not isinstance(captured, Tensor):
            raise TypeError(f"{self._described(captured)} instead of one tensor: name a module next to it.")
        return captured

    @contextmanager
    def changed(self, change: Change) -> Iterator[None]:
        """Replace the next output of the module by ``change(output)``.

        Raises:
            RuntimeError: No forward pass ran through the module.
            TypeError: The output is not a tensor.

        Example:
            >>> model = nn.Sequential(nn.Identity(), nn.Flatten())
            >>> with FeatureHook(model, "0", of="output").changed(lambda features: features + 1):
            ...     model(torch.zeros(1, 2))
            tensor([[1., 1.]])
        """
        self._change = change
        try:
            with reading(self):
                yield
            if self._change is not None:
                raise RuntimeError(self._unused())
        finally:
            self._change = None

    def close(self) -> None:
        """Remove the hook from the module. It can be used again afterwards."""
        handle, self._handle, self._compiled = self._handle, None, False
        if handle is not None:
            handle.remove()

    def _unused(self) -> str:
        guess = 'name the layer that computes the logits, as in classifier="head.fc"' if self._guessed else ""
        return (
            f"No forward pass ran through {self.name!r} inside the hook's with block. Either the model does not use "
            f"that module{guess and f': {guess}'}, or it was compiled and called before the hook: create the method "
            "before torch.compile, and run its first step before anything else calls the compiled model."
        )

    def _described(self, found: Any) -> str:
        return f"The {self.of} of {self.name!r} is a {type(found).__name__}"


class MapHook(FeatureHook):
    """Reads a feature map ``(B, C, h, w)`` from any layer that outputs maps or tokens.

    :meth:`map` stops the forward pass at the layer, except while ``torch.compile`` traces the network.

    Args:
        network: Any classifier.
        layer: Name of the module in ``named_modules()``; None takes :func:`middle_layer`.
        of: Read the ``"output"`` of the layer, or its ``"input"``.

    Raises:
        ValueError: The model has no layer with this name or, when used, its output is not a map.
        RuntimeError: When used: no forward pass ran through the layer.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
        >>> MapHook(network, "0").map(network, torch.rand(2, 3, 9, 9)).shape
        torch.Size([2, 6, 4, 4])
    """

    def __init__(self, network: nn.Module, layer: str | None = None, of: Literal["input", "output"] = "output") -> None:
        super().__init__(network, middle_layer(network) if layer is None else layer, of=of)

    def map(self, network: nn.Module, images: Tensor) -> Tensor:
        """Run the network as far as the layer and return the map."""
        self._stops = True
        try:
            with reading(self):
                network(images)
        except _Stop:
            pass
        finally:
            self._stops = False
        return self.taken(images)

    def taken(self, images: Tensor) -> Tensor:
        """Return the map that a forward pass of these images inside the hook's ``with`` block left."""
        output, size = self.take(), (images.shape[2], images.shape[3])
        if output.dim() == 4 and output.shape[2] * size[1] == output.shape[3] * size[0]:
            return output  # channels first, and exactly the proportions of the images
        return as_maps(output, size, self.name)


@contextmanager
def reading(hook: AbstractContextManager[Any] | None) -> Iterator[None]:
    """Do the same as ``with hook``, which ``torch.compile`` cannot trace before torch 2.15; with None, do nothing."""
    if hook is not None:
        hook.__enter__()
    try:
        yield
    finally:
        if hook is not None:
            hook.__exit__(None, None, None)


@contextmanager
def attached(*hooks: FeatureHook) -> Iterator[None]:
    """Keep hooks on their modules, without effect, for steps that use them only now and then.

    A model compiled by ``torch.compile`` must have all hooks in its graph from its first step on.
    """
    for hook in hooks:
        hook._attach()
    try:
        yield
    finally:
        for hook in hooks:
            hook.__exit__()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged in training mode: norms still normalize by the statistics of the batch.

    Statistics are the counters and floating-point buffers that a module in training mode saves with its weights: those
    of norms of any kind, and the vectors of spectral normalization. Modules in eval mode are not touched. A backward
    pass may come after the block.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with frozen_statistics(norm):
        ...     _ = norm(torch.rand(8, 2))
        >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """
    flagged: list[_BatchNorm] = []
    swapped: list[tuple[Any, str, Tensor]] = []
    for module in model.modules():
        if not module.training or not module._buffers:
            continue
        if isinstance(module, _BatchNorm) and type(module).forward in _TORCH_FORWARDS:
            if module.track_running_stats:
                flagged.append(module)  # without the flag torch's batch norms do not update their buffers
        else:
            swapped += [
                (module._buffers, n, b)
                for n, b in module._buffers.items()
                if b is not None and _is_statistic(module, n, b)
            ]
    try:
        for module in flagged:
            module.track_running_stats = False
        for owner, name, buffer in swapped:
            owner[name] = buffer.clone()  # any other module writes to a copy
        yield
    finally:
        for module in flagged:
            module.track_running_stats = True
        for owner, name, buffer in swapped:
            owner[name] = buffer


_TORCH_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def _is_statistic(module: nn.Module, name: str, buffer: Tensor) -> bool:
    saved = name not in module._non_persistent_buffers_set
    return saved and (buffer.is_floating_point() or buffer.dim() == 0)


@contextmanager
def clean_pass(model: nn.Module, *, grad: bool = False, statistics: bool = False) -> Iterator[None]:
    """Run a model on the unmixed images, by default without gradient and without updating running statistics.

    Args:
        model: The model.
        grad: Keep the gradient.
        statistics: Update running statistics of norms.
    """
    running = nullcontext() if statistics else frozen_statistics(model)
    with torch.set_grad_enabled(grad and torch.is_grad_enabled()), running:
        yield
    if not grad and not torch.compiler.is_compiling():
        # Until torch 2.9, autocast caches the weights that it casts without gradient: the mixed pass would not train.
        torch.clear_autocast_cache()
