"""From a config to the objects that train: classifier, method, optimizer, learning-rate schedule."""

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
from mixwell.losses import Loss
from mixwell.methods import Method
from mixwell.normalization import Normalization
from mixwell.parse import names, parse
from mixwell.policy import BatchPolicy, NoMix
from mixwell.train.checkpoint import load_weights, read_weights, without_prefix
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet
from mixwell.train.errors import RunError, closest, mistakes


def check_expressions(config: Config) -> None:
    """Check policy, method, loss and the model's name, before any data is read.

    Raises:
        RunError: One of them is not valid.
    """
    policy(config)
    method_class(config)
    loss(config)
    name = config.model.partition("(")[0]
    if name not in models.NAMES and not name.startswith("timm/"):
        raise RunError(f"no model called {name!r}{_similar_model(name)}")


def _similar_model(name: str) -> str:
    try:
        from timm import is_model
    except ImportError:
        return closest(name, models.NAMES)
    return f"; did you mean timm/{name}?" if is_model(name) else closest(name, models.NAMES)


def classifier(config: Config, data: DataSet) -> nn.Module:
    """Return the classifier, freshly initialized or with the weights that the config names.

    Raises:
        RunError: The model does not exist, or the weights do not fit it.
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
    """Load weights of the same architecture; a last layer for another number of classes stays freshly initialized."""
    theirs = without_prefix(read_weights(Path(config.weights)), model.state_dict())
    load_weights(model, theirs, config.weights, classifier_of(model)[0])


def policy(config: Config) -> BatchPolicy | None:
    """Return the mixing policy, or None for plain training.

    Raises:
        RunError: The expression is not a policy, or has a wrong setting.
    """
    if config.policy.lower() in ("none", ""):
        return None
    found = _parsed("policy", config.policy)
    if not isinstance(found, BatchPolicy):
        raise RunError(f"policy must be a mixing policy such as CutMix(alpha=0.2), but is {config.policy}")
    return found


def loss(config: Config) -> Loss | None:
    """Return the loss, or None for the default of the method.

    Raises:
        RunError: The expression is not a loss, or has a wrong setting.
    """
    if not config.loss:
        return None
    found = _parsed("loss", config.loss)
    if not isinstance(found, Loss):
        raise RunError(f"loss must be one of {', '.join(names('loss'))}, but is {config.loss}")
    return found


def method_class(config: Config) -> tuple[Callable[..., Method], type[Method]]:
    """Return a function that creates the training method, and the class of the method.

    Raises:
        RunError: The expression is not a method, has a wrong setting, or needs a policy.
    """
    make = _parsed("method", config.method)
    target = getattr(make, "func", make)  # a method is parsed to a partial of its class
    if not (isinstance(target, type) and issubclass(target, Method)):
        raise RunError(f"method must be a training method such as SUMix, but is {config.method}")
    needed = inspect.signature(target).parameters["policy"].default is inspect.Parameter.empty
    if needed and config.policy.lower() in ("none", ""):
        raise RunError(
            f"method {config.method} needs a policy: add --policy 'CutMix(alpha=0.2)', or use --method Mixing"
        )
    return make, target


def method(config: Config, model: nn.Module, num_classes: int, normalization: Normalization | None = None) -> Method:
    """Return the training method of a classifier.

    Args:
        config: The settings.
        model: The classifier.
        num_classes: Number of classes.
        normalization: How images are normalized; None means that they are in [0, 1].

    Raises:
        RunError: An expression is not valid, or the parts do not go together.
    """
    (make, _), mix, criterion = method_class(config), policy(config), loss(config)
    settings: dict[str, Any] = {"num_classes": num_classes, "normalization": normalization}
    settings |= {name: value for name, value in (("policy", mix), ("loss", criterion)) if value is not None}
    with mistakes():
        return make(model, **settings)


def check_several_labels(method: Method) -> None:
    """Check that a method has a loss for several labels per image.

    Raises:
        RunError: Its loss is a softmax loss, or needs class indices.
    """
    criterion: Any = getattr(method, "loss", None)
    try:
        criterion(torch.zeros(1, 2), NoMix()(torch.zeros(1, 1, 1, 1), torch.ones(1, 2)))
    except (TypeError, ValueError):
        raise RunError(
            f"the images have several labels, which {criterion} cannot learn: use --loss 'BinaryCrossEntropy()'"
        ) from None


def _parsed(field: str, text: str) -> Any:
    with mistakes(f"{field}: "):
        return parse(text)


def optimizer(config: Config, method: Method) -> torch.optim.Optimizer:
    """Return the optimizer of the parameter groups of a method, each with its peak learning rate as ``"peak"``.

    Settings of a group (``lr``, ``momentum``, ``weight_decay``, ...) take precedence over the config.

    Raises:
        RunError: The optimizer does not exist, or it lacks a setting of a group.
    """
    groups = [{"weight_decay": config.weight_decay, **group} for group in method.param_groups()]
    if not config.decay_all:
        exempt = _without_decay(method)
        groups = [part for group in groups for part in _split(group, exempt)]
    given, fused = {name for group in groups for name in group}, not config.shard  # torch cannot fuse sharded tensors
    if config.optimizer == "sgd":
        made = torch.optim.SGD(groups, config.lr, config.momentum, fused=fused)
    elif config.optimizer == "adamw":
        made = torch.optim.AdamW(groups, config.lr, fused=fused)
    else:
        made = _timm_optimizer(config, groups)
    settings = set(made.defaults)
    for name in sorted(given - settings - {"params", "name"}):  # torch would ignore it
        raise RunError(f"optimizer {config.optimizer} has no setting {name!r} for a group{closest(name, settings)}")
    for group in made.param_groups:
        group["peak"] = group["lr"]
        if group.get("name") == "block" and config.block_lr_min >= 0:
            group["lr_min"] = config.block_lr_min
    return made


def _without_decay(method: Method) -> set[int]:
    """Return the ids of parameters without decay: biases, norm weights, and embeddings that a timm model names."""
    found = {id(p) for p in method.parameters() if p.ndim < 2}
    for module in method.modules():
        listed: Any = getattr(module, "no_weight_decay", set)
        exempt = listed()
        found |= {id(p) for name, p in module.named_parameters() if name in exempt}
    return found


def _split(group: dict[str, Any], exempt: set[int]) -> list[dict[str, Any]]:
    """Split a group into two, the second without weight decay; an empty one is dropped."""
    params = list(group["params"])
    decayed, others = [p for p in params if id(p) not in exempt], [p for p in params if id(p) in exempt]
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
    """Return the learning rate as a function of the optimizer step and of a group's highest and lowest rate.

    The rate rises linearly to the peak during warm-up, for at most half of the run, then falls along half a cosine to
    ``lr_min`` (by default that of the config): ``lr_min + (peak - lr_min) / 2 * (1 + cos(pi * t / T))``.

    Args:
        config: Epochs, warm-up and lowest rate.
        steps: Optimizer steps per epoch.

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
