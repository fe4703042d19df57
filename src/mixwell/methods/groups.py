"""Parameter groups for an optimizer: those of a mix block, and parameters without weight decay."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

from torch import nn

NUMBERS = ("lr", "momentum", "weight_decay")


def check_block_group(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the settings of the block's parameter group, or raise if one is out of range or not for an optimizer.

    Example:
        >>> check_block_group({"lr": 0.1, "lr_min": 0.001})
        Traceback (most recent call last):
        ValueError: lr_min is not an optimizer setting and would be ignored: in the training program use --block_lr_min.
    """
    found = dict(settings or {})
    if "lr_min" in found:
        raise ValueError(
            "lr_min is not an optimizer setting and would be ignored: in the training program use --block_lr_min."
        )
    for name, value in found.items():
        fits = name not in NUMBERS or (isinstance(value, numbers.Real) and 0 <= float(value) < math.inf)
        if name in ("params", "name") or not fits:
            raise ValueError(
                f"block_group must hold optimizer settings that are not negative, but got {name}={value!r}."
            )
    return found


def split_block(groups: list[dict[str, Any]], block: nn.Module, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Split the block's parameters from each parameter group, into groups ``name="block"`` with settings of their own.

    Example:
        >>> model = nn.ModuleList((nn.Linear(1, 1), nn.Linear(1, 1)))
        >>> groups = split_block([{"params": list(model.parameters())}], model[1], {"lr": 0.1})
        >>> [(len(group["params"]), group.get("lr")) for group in groups]
        [(2, None), (2, 0.1)]
    """
    own = {id(p) for p in block.parameters()}
    others = [{**group, "params": [p for p in group["params"] if id(p) not in own]} for group in groups]
    of_block = [{**group, "params": [p for p in group["params"] if id(p) in own]} for group in groups]
    of_block = [{**group, "name": "block", **settings} for group in of_block]
    return [group for group in (*others, *of_block) if group["params"]]


def split_decay(
    groups: list[dict[str, Any]], weight_decay: float | None, model: nn.Module | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups in which norms and biases have no weight decay.

    Args:
        groups: Parameter groups; a group's own ``weight_decay`` holds for its weights.
        weight_decay: Weight decay of weights, parameters with two or more dimensions; None changes nothing.
        model: A model whose ``no_weight_decay()`` may name further parameters without decay (timm).

    Returns:
        Two groups for each, those without decay second; empty groups are left out.

    Raises:
        ValueError: The weight decay is negative.
    """
    if weight_decay is None:
        return groups
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay must not be negative, but got {weight_decay}.")
    names = getattr(model, "no_weight_decay", set)()
    named = {id(p) for name, p in model.named_parameters() if name in names} if model is not None else set()
    split = []
    for group in groups:
        for decays in (True, False):
            params = [p for p in group["params"] if (p.ndim > 1 and id(p) not in named) == decays]
            decay = group.get("weight_decay", weight_decay) if decays else 0.0
            if params:
                split.append({**group, "params": params, "weight_decay": decay})
    return split
