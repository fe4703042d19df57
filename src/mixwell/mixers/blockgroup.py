"""The optimizer settings of a mix block, which often has a learning rate of its own."""

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
