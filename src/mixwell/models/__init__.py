"""Classifiers: residual networks for 32-pixel images, PVT and MogaNet, and every model of timm by name."""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from mixwell.models.cifar import ResNet, mini_resnet, resnet18, resnext50_32x4d, wide_resnet28_8
from mixwell.models.moganet import MogaNet, moganet_tiny
from mixwell.models.pvt import PVT, pvt_small, pvt_tiny

__all__ = [  # noqa: RUF022
    "NAMES", "MogaNet", "PVT", "ResNet", "build", "mini_resnet", "moganet_tiny", "pvt_small", "pvt_tiny", "resnet18",
    "resnext50_32x4d", "wide_resnet28_8",
]  # fmt: skip

READS_FILES = {"cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"}
NAMES = ("resnet18", "resnext50_32x4d", "wide_resnet28_8", "mini_resnet", "pvt_tiny", "pvt_small", "moganet_tiny")


def build(name: str, num_classes: int, in_chans: int = 3, tag: str = "") -> nn.Module:
    """Return a classifier with random weights, or a model of timm with the pretrained weights of a tag.

    Args:
        name: One of ``NAMES``, or ``"timm/NAME"`` for any model of timm, optionally with settings:
            ``"timm/NAME(drop_path_rate=0.1)"``. Settings that read files are refused. Of ``NAMES``, the residual
            networks have a stem for 32-pixel images and no settings; ``pvt_tiny``, ``pvt_small`` and ``moganet_tiny``
            are for images of 224 pixels and have the setting ``drop_path_rate``.
        num_classes: Width of the output.
        in_chans: Channels of the images.
        tag: Name of timm's pretrained weights to start from, such as ``"tv_in1k"``; downloaded on first use. The last
            layer keeps its random weights unless the number of classes is the same.

    Raises:
        ValueError: The model, setting or tag does not exist, or the download fails.

    Example:
        >>> build("mini_resnet", 10, in_chans=1).get_classifier()
        Linear(in_features=128, out_features=10, bias=True)
    """
    if name.partition("(")[0] in NAMES:
        if tag:
            raise ValueError(f"{name} has no pretrained weights {tag!r}: only models of timm have some.")
        own, settings = settings_in(name)
        with _mistakes(f"mixwell cannot create {own} with {settings}"):
            return globals()[own](num_classes, in_chans, **settings)
    if not name.startswith("timm/"):
        raise ValueError(f"There is no model {name!r}: {_nearest(name)}")
    try:
        import timm  # seconds to import, so only when asked for
    except ImportError:
        raise ValueError(f"Model {name!r} needs timm, which is not installed: pip install timm.") from None
    name, settings = settings_in(name.removeprefix("timm/"))
    if name not in timm.list_models():
        raise ValueError(f"timm has no model {name!r}: {_nearest(name, timm.list_models())}")
    refused = sorted(READS_FILES & settings.keys())
    if refused:
        raise ValueError(f"timm/{name} does not take {refused[0]}, which reads a file: load weights separately.")
    tagged = f"{name}.{tag}" if tag else name
    hint = "; check the network connection, or give the weights as a file" if tag else ""
    with _mistakes(f"timm cannot create {tagged} with {settings}", hint):
        return timm.create_model(tagged, pretrained=bool(tag), num_classes=num_classes, in_chans=in_chans, **settings)


@contextmanager
def _mistakes(what: str, hint: str = "") -> Iterator[None]:
    """Raise any error, of the model for its settings or of timm for the tag, as a ValueError of one sentence."""
    try:
        yield
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{what}: {reason}{hint}.") from error


def settings_in(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``NAME(setting=value)`` into the name and its settings; values are literals, nothing is evaluated."""
    name, bracket, rest = text.partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"_({rest}", mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return name, {keyword.arg or "**": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    raise ValueError(f"Expected NAME(setting=value, ...) with literal values, but got {text!r}.")


def _nearest(name: str, choices: Sequence[str] = ()) -> str:
    """Return advice on a name: the most similar one, of timm if it is not given with its prefix, or a list."""
    if not choices and importlib.util.find_spec("timm"):
        import timm

        if name in timm.list_models():
            return f"did you mean timm/{name}?"
    close = difflib.get_close_matches(name, choices or NAMES, 1)
    known = f"use {', '.join(NAMES)}, or timm/NAME for a model of timm."
    return f"did you mean {close[0]}?" if close else known
