"""From a config to the objects that train: classifier, method, optimiser, learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mixwell import models
from mixwell.features.layers import classifier_of
from mixwell.methods import Method
from mixwell.parse import nearest, parse
from mixwell.policy import BatchPolicy
from mixwell.step_guard import begin_momentum
from mixwell.train.checkpoint import read_weights
from mixwell.train.config import Config
from mixwell.train.data import DataSet
from mixwell.train.errors import RunError


def classifier(config: Config, data: DataSet) -> nn.Module:
    """Return the classifier, freshly initialised or with the weights the config names.

    Raises:
        RunError: no such model, or the weights do not fit it.
    """
    fetched = config.weights.startswith("timm/")
    try:
        tag = config.weights.removeprefix("timm/") if fetched else ""
        model = models.build(config.model, len(data.classes), data.channels, tag)
    except ValueError as error:
        raise RunError(str(error)) from None
    if config.weights and not fetched:
        _pretrained(model, config)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


def _pretrained(model: nn.Module, config: Config) -> None:
    """Load weights of the same architecture; a classifier layer for other classes is left as it was initialised."""
    theirs = read_weights(Path(config.weights))
    ours = model.state_dict()
    head, _ = classifier_of(model)
    fits = {name for name in ours.keys() & theirs.keys() if ours[name].shape == theirs[name].shape}
    odd = sorted(name for name in (ours.keys() | theirs.keys()) - fits if name.rpartition(".")[0] != head)
    if odd:
        raise RunError(f"the weights in {config.weights} do not fit {config.model}: {len(odd)} differ, {odd[0]} is one")
    model.load_state_dict({name: theirs[name] for name in fits}, strict=False)


def policy(config: Config) -> BatchPolicy | None:
    """Return the mixing policy, or None for plain training.

    Raises:
        RunError: the expression names no policy, or has a wrong setting.
    """
    if config.policy.lower() in ("none", ""):
        return None
    found = _parsed("policy", config.policy)
    if not isinstance(found, BatchPolicy):
        raise RunError(f"policy must be a mixing policy such as CutMix(alpha=0.2), and is {config.policy}")
    return found


def method(config: Config, model: nn.Module, num_classes: int) -> Method:
    """Return the training method around a classifier.

    Raises:
        RunError: the expression names no method, has a wrong setting, or the method cannot use the policy.
    """
    make, mix = _parsed("method", config.method), policy(config)
    target = getattr(make, "func", make)  # a method comes as a partial of its class
    if not (isinstance(target, type) and issubclass(target, Method)):
        raise RunError(f"method must be a training method such as SUMix, and is {config.method}")
    needed = inspect.signature(target).parameters["policy"].default is inspect.Parameter.empty
    if mix is None and needed:
        raise RunError(
            f"method {config.method} needs a policy: add --policy 'CutMix(alpha=0.2)', or --method Mixing for none"
        )
    try:
        return make(model, *([] if mix is None else [mix]), num_classes=num_classes)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None


def _parsed(field: str, text: str) -> Any:
    try:
        return parse(text)
    except (TypeError, ValueError) as error:
        raise RunError(f"{field}: {error}") from None


def optimizer(config: Config, method: Method) -> torch.optim.Optimizer:
    """Return the optimiser over the groups of a method, each of which remembers its own peak learning rate.

    A group's own settings (``lr``, ``lr_min``, ``momentum``, ``weight_decay``, ...) go before the config's.

    Raises:
        RunError: no such optimiser, or a group has a setting that the optimiser does not.
    """
    groups = [{"weight_decay": config.weight_decay, **group} for group in method.param_groups()]
    if not config.decay_all:
        spared = _spared(method)
        groups = [part for group in groups for part in _parted(group, spared)]
    given = {name for group in groups for name in group}
    if config.optimizer == "sgd":
        made = torch.optim.SGD(groups, config.lr, config.momentum, fused=True)
    elif config.optimizer == "adamw":
        made = torch.optim.AdamW(groups, config.lr, fused=True)
    else:
        made = _timm_optimizer(config, groups)
    settings = set(made.defaults)
    for name in sorted(given - settings - {"params", "name"}):  # torch would keep it, and never look at it
        raise RunError(f"optimizer {config.optimizer} has no {name!r} for a group{nearest(name, settings)}")
    for group in made.param_groups:
        group["peak"] = group["lr"]
        if group.get("name") == "block" and config.block_lr_min >= 0:
            group["lr_min"] = config.block_lr_min
    begin_momentum(made)
    return made


def _spared(method: Method) -> set[int]:
    """Return the ids of what decay does not suit: biases, norm weights, and embeddings that a model of timm names."""
    found = {id(p) for p in method.parameters() if p.ndim < 2}
    for module in method.modules():
        named: Any = getattr(module, "no_weight_decay", set)
        names = named()
        found |= {id(p) for name, p in module.named_parameters() if name in names}
    return found


def _parted(group: dict[str, Any], spared: set[int]) -> list[dict[str, Any]]:
    """Part a group in two, the second without decay; an empty part is left out."""
    params = list(group["params"])
    decayed, others = [p for p in params if id(p) not in spared], [p for p in params if id(p) in spared]
    parts = ({**group, "params": decayed}, {**group, "params": others, "weight_decay": 0.0})
    return [part for part in parts if part["params"]]


def _timm_optimizer(config: Config, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    try:
        from timm.optim import create_optimizer_v2

        return create_optimizer_v2(groups, config.optimizer, lr=config.lr, momentum=config.momentum)
    except ImportError:
        raise RunError(f"optimizer {config.optimizer!r} needs timm: pip install timm, or use sgd or adamw") from None
    except (ValueError, AssertionError, TypeError) as error:
        raise RunError(f"optimizer {config.optimizer!r} is not available: {error}; use sgd or adamw") from None


def schedule(config: Config, steps: int) -> Callable[..., float]:
    """Return the learning rate as a function of the optimiser step, a group's peak and its lowest rate.

    Linear warm-up to the peak, for at most half of the run, then half a cosine down to ``lr_min``, the config's where
    none is given, a new rate at every step: ``lr_min + (peak - lr_min) / 2 * (1 + cos(pi * t / T))``.

    Args:
        config: Epochs, warm-up and lowest rate.
        steps: Optimiser steps per epoch.

    Example:
        >>> rate = schedule(Config(epochs=10, warmup=2), steps=5)
        >>> [round(rate(step, 1.0), 3) for step in (0, 9, 10, 30, 50)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
        >>> rate(50, 1.0, lr_min=0.25)
        0.25
    """
    total = config.epochs * steps
    warm = min(round(config.warmup * steps), total // 2)

    def rate(step: int, peak: float, lr_min: float = config.lr_min) -> float:
        if step < warm:
            return peak * (step + 1) / warm
        angle = math.pi * (step - warm) / max(total - warm, 1)
        return lr_min + (peak - lr_min) / 2 * (1 + math.cos(angle))

    return rate
