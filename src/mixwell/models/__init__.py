"""Classifiers: 32-pixel residual networks of our own, and every model of timm by name."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from typing import Any

from torch import nn

from mixwell.models.cifar import ResNet, mini_resnet, resnet18, resnext50_32x4d, wide_resnet28_8

__all__ = ["NAMES", "ResNet", "build", "mini_resnet", "resnet18", "resnext50_32x4d", "wide_resnet28_8"]

NAMES = ("resnet18", "resnext50_32x4d", "wide_resnet28_8", "mini_resnet")


def build(name: str, num_classes: int, in_chans: int = 3, tag: str = "") -> nn.Module:
    """Return a classifier, freshly initialised but for a model of timm with a tag.

    Args:
        name: One of ``NAMES`` (stem for 32-pixel images), or ``"timm/NAME"`` for any model of timm, with settings of
            its own if need be: ``"timm/NAME(drop_path_rate=0.1)"``.
        num_classes: Width of the output.
        in_chans: Channels of the images.
        tag: Pretrained weights of a timm model to start from, by timm's name such as ``"tv_in1k"``; fetched from the
            network on first use. The last layer stays fresh unless the number of classes is the same.

    Raises:
        ValueError: no such model, setting or tag, or the weights cannot be fetched.

    Example:
        >>> build("mini_resnet", 10, in_chans=1).get_classifier()
        Linear(in_features=128, out_features=10, bias=True)
    """
    if name in NAMES:
        if tag:
            raise ValueError(f"{name} has no weights called {tag!r}: only models of timm have, as timm/{name}")
        return globals()[name](num_classes, in_chans)
    if not name.startswith("timm/"):
        raise ValueError(f"no model called {name!r}{_nearest(name, NAMES)}")
    try:
        import timm  # seconds to import, so only when asked for
    except ImportError:
        raise ValueError(f"model {name!r} needs timm, which is not installed: pip install timm") from None
    name, settings = _call(name.removeprefix("timm/"))
    if name not in timm.list_models():
        raise ValueError(f"timm has no model called {name!r}{_nearest(name, timm.list_models())}")
    tagged = f"{name}.{tag}" if tag else name
    try:
        return timm.create_model(tagged, pretrained=bool(tag), num_classes=num_classes, in_chans=in_chans, **settings)
    except Exception as error:  # of the model for its settings, of timm for the tag, of the network for the rest
        hint = "; is the network there? weights can be named as a file too" if tag else ""
        raise ValueError(f"timm cannot make {tagged} with {settings}: {str(error).splitlines()[0]}{hint}") from error


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """Take ``NAME(setting=value)`` apart; values are literals, nothing is evaluated."""
    name, bracket, rest = text.partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"_({rest}", mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return name, {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise ValueError(f"expected timm/NAME(setting=value, ...) with plain values, and got 'timm/{text}'")


def _nearest(name: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, choices, 1)
    return (
        f"; did you mean {close[0]}?" if close else f"; there are {', '.join(NAMES)}, and timm/NAME for those of timm"
    )
