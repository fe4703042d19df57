"""Names of layers: a model's stages, its last feature map, its classifier."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_LISTS = ("stages", "layers", "blocks")
_DEPTH = 2  # a model inside a user's module, inside that of torch.compile


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside ``torch.compile``, ``DistributedDataParallel`` and the like.

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


def module_of(model: nn.Module, name: str) -> nn.Module:
    """Return the module with this name in ``model.named_modules()``; wrappers are looked through.

    Raises:
        ValueError: The model has no module with this name; the error lists the most similar names.
    """
    modules = dict(unwrapped(model).named_modules())
    if name not in modules:
        modules = dict(model.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, modules, n=3) or [key for key in modules if key][-3:]
        raise ValueError(f"{type(model).__name__} has no module {name!r}; the nearest names are {', '.join(near)}.")
    return modules[name]


def classifier_of(model: nn.Module, num_classes: int | None = None) -> tuple[str, nn.Module]:
    """Return name and module of the layer that computes the logits.

    That is the result of ``model.get_classifier()`` if the model has this method (timm), otherwise the last
    ``nn.Linear`` in the order of ``named_modules()`` or, where ``num_classes`` is given, the last linear or
    convolutional layer with as many outputs.

    Args:
        model: Any classifier.
        num_classes: Width of the logits, if known.

    Raises:
        ValueError: The layer was not found, or ``get_classifier()`` does not return a module of the model.

    Example:
        >>> name, layer = classifier_of(nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)))
        >>> name, layer.out_features
        ('3', 5)
        >>> classifier_of(nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 2)), num_classes=5)[0]
        '0'
    """
    kind, modules = type(model).__name__, dict(model.named_modules())
    if callable(getter := getattr(model, "get_classifier", None)):
        found = getter()
        if isinstance(found, nn.Identity):
            raise ValueError(
                f"The classifier of {kind} is an Identity (num_classes=0): create the model with its number of "
                'classes, or name the layer that computes the logits, as in classifier="head".'
            )
        for name, module in modules.items():
            if module is found:
                return name, module
        raise ValueError(
            f"{kind}.get_classifier() returns a {type(found).__name__}, which is not one module of the model: name the "
            'layer that computes the logits, as in classifier="head".'
        )
    layers = [(name, module) for name, module in modules.items() if outputs_of(module)]
    linear = [(name, module) for name, module in layers if isinstance(module, nn.Linear)]
    fitting = [(name, module) for name, module in layers if outputs_of(module) == num_classes]
    candidates = linear if num_classes is None else [pair for pair in fitting if pair in linear] or fitting
    if not candidates:
        wanted = "nn.Linear" if num_classes is None else f"layer with {num_classes} outputs (num_classes)"
        last = f"; the last linear layer {linear[-1][0]!r} has {outputs_of(linear[-1][1])}" if linear else ""
        raise ValueError(
            f"{kind} has neither get_classifier() nor an {wanted}{last}: check num_classes, or name the layer that "
            'computes the logits, as in classifier="head".'
        )
    return candidates[-1]


def computes_logits(output: Any, logits: Tensor) -> bool:
    """Return whether a layer's output is the logits, or at least a map of as many classes that is pooled later."""
    if not isinstance(output, Tensor) or output.dim() < 2 or output.shape[1:2] != logits.shape[1:2]:
        return False
    if output is logits or output.dim() > 2:
        return True
    if output.shape != logits.shape or torch.compiler.is_compiling():
        return output.shape == logits.shape
    return output.detach().float().allclose(logits.detach().float(), rtol=1e-2, atol=1e-3, equal_nan=True)


def outputs_of(layer: nn.Module) -> int | None:
    """Return the number of outputs of a linear or convolutional layer, or None for any other layer."""
    found = getattr(layer, "out_features", None) or getattr(layer, "out_channels", None)
    return found if isinstance(found, int) else None


def inputs_of(layer: nn.Module, name: str) -> int:
    """Return the number of inputs of a linear or convolutional layer.

    Raises:
        ValueError: The layer is neither.
    """
    found = getattr(layer, "in_features", None) or getattr(layer, "in_channels", None)
    if not isinstance(found, int):
        raise ValueError(
            f"The classifier must be a linear or convolutional layer, but {name!r} is a {type(layer).__name__}: name "
            'the layer that computes the logits, as in classifier="head.fc".'
        )
    return found


def stages_of(model: nn.Module) -> list[str]:
    """Return the names of a model's stages in order, or an empty list if they could not be inferred.

    Stages are ``layer1``, ``layer2``, ... or ``stage1``, ... , or the children of ``stages``, ``layers`` or ``blocks``:
    those of the model itself, or else those of its only part that has any. Wrappers such as
    ``DistributedDataParallel`` are looked through.

    Example:
        >>> model = nn.Module()
        >>> model.blocks = nn.Sequential(nn.ReLU(), nn.ReLU())
        >>> stages_of(model), stages_of(nn.Sequential(model, nn.Linear(2, 2)))
        (['blocks.0', 'blocks.1'], ['0.blocks.0', '0.blocks.1'])
    """
    return _in_only_part(unwrapped(model), _stages, _DEPTH)


def last_map(model: nn.Module, *, bypassed: bool = False) -> str:
    """Return the name of the module that outputs a model's last feature map, which a hook may read or replace.

    That is the last stage, or the last module of timm's ``feature_info``, or the last part of an ``nn.Sequential`` that
    contains a convolution. A convolution inside a block does not count, as a residual connection may bypass it.

    Args:
        model: Any model.
        bypassed: Also accept the last part with a convolution of any other model. Other connections may bypass it,
            which does no harm if the map is only read.

    Raises:
        ValueError: The model has none of these.

    Example:
        >>> last_map(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(6, 10)))
        '0'
    """
    inner = unwrapped(model)
    found = _in_only_part(inner, lambda part: _stages(part) or _in_feature_info(part), _DEPTH)
    if not found and (bypassed or type(inner) is nn.Sequential):
        parts = inner.named_children()
        found = [name for name, part in parts if any(isinstance(module, nn.Conv2d) for module in part.modules())]
    if not found:
        raise ValueError(
            f"Could not infer the last feature map of {type(inner).__name__}: name a layer that outputs maps "
            '(B, C, h, w) or tokens (B, N, C), as in layer="encoder.11".'
        )
    return found[-1]


def pooled_layer(model: nn.Module) -> str | None:
    """Return the name of the global pooling whose input is the last feature map, or None if it has none.

    That is the last adaptive pooling, if no convolution comes after it.

    Example:
        >>> pooled_layer(nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10)))
        '1'
    """
    found = None
    for name, module in unwrapped(model).named_modules():
        if isinstance(module, nn.Conv2d):
            found = None
        elif found is None and re.search("Adaptive(Avg)?Pool", type(module).__name__):
            found = name
    return found


def middle_layer(model: nn.Module) -> str:
    """Return the layer whose map a mix block reads: the last stage but one, or the middle block of a transformer.

    Raises:
        ValueError: The stages of the model could not be inferred.

    Example:
        >>> from mixwell.models import mini_resnet
        >>> middle_layer(mini_resnet(10))
        'layer2'
    """
    stages = stages_of(model)
    if len(stages) < 2:
        raise ValueError(
            f"Could not infer the stages of {type(model).__name__}: name the layer whose feature map is read, as in "
            "layer='features.4', by its name in model.named_modules()."
        )
    return stages[len(stages) // 2 - 1] if "blocks" in stages[0].split(".") or len(stages) > 5 else stages[-2]


def channels_of(model: nn.Module, layer: str) -> int:
    """Return the number of channels that a layer outputs, read from the last convolution, linear layer or norm in it.

    Raises:
        ValueError: There is none.

    Example:
        >>> channels_of(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), "0")
        6
    """
    found = 0
    for module in module_of(model, layer).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found = outputs_of(module)
        elif isinstance(module, nn.LayerNorm):
            found = module.normalized_shape[-1]
        else:
            found = getattr(module, "num_features", found)
    if not isinstance(found, int) or not found:
        raise ValueError(f"Could not infer the number of channels that {layer!r} outputs: give channels=.")
    return found


def _in_only_part(model: nn.Module, names_in: Callable[[nn.Module], list[str]], depth: int) -> list[str]:
    """Return the names found in a model or, where there are none, in its only part that has some."""
    found = names_in(model)
    if found or not depth:
        return found
    deeper = ((name, _in_only_part(part, names_in, depth - 1)) for name, part in model.named_children())
    several = [[f"{name}.{inner}" for inner in inside] for name, inside in deeper if inside]
    return several[0] if len(several) == 1 else []


def _stages(model: nn.Module) -> list[str]:
    children = dict(model.named_children())
    for prefix in ("layer", "stage"):
        numbered = [name for name in children if name.startswith(prefix) and name.removeprefix(prefix).isdecimal()]
        if len(numbered) > 1:
            return sorted(numbered, key=lambda name: int(name.removeprefix(prefix)))
    for name in _LISTS:
        if isinstance(children.get(name), nn.Sequential | nn.ModuleList):
            return [f"{name}.{key}" for key, _ in children[name].named_children()]
    return []


def _in_feature_info(model: nn.Module) -> list[str]:
    info = getattr(model, "feature_info", None)  # timm's list of stages
    names = [str(stage.get("module")) for stage in info if isinstance(stage, dict)] if isinstance(info, list) else []
    known = dict(model.named_modules())
    return [name for name in names[-1:] if name and name in known]
