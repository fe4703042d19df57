"""Classifiers: 32-pixel residual networks of our own, and every model of timm by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn

from mixwell.models.cifar import ResNet, mini_resnet, resnet18, resnext50_32x4d, wide_resnet28_8

__all__ = ["NAMES", "ResNet", "build", "mini_resnet", "resnet18", "resnext50_32x4d", "wide_resnet28_8"]

NAMES = ("resnet18", "resnext50_32x4d", "wide_resnet28_8", "mini_resnet")


def build(name: str, num_classes: int, in_chans: int = 3) -> nn.Module:
    """Return a freshly initialised classifier.

    Args:
        name: One of ``NAMES`` (stem for 32-pixel images), or ``"timm/NAME"`` for any model of timm.
        num_classes: Width of the output.
        in_chans: Channels of the images.

    Raises:
        ValueError: no such model.

    Example:
        >>> build("mini_resnet", 10, in_chans=1).get_classifier()
        Linear(in_features=128, out_features=10, bias=True)
    """
    if name in NAMES:
        return globals()[name](num_classes, in_chans)
    if not name.startswith("timm/"):
        raise ValueError(f"no model called {name!r}{_nearest(name, NAMES)}")
    try:
        import timm  # seconds to import, so only when asked for
    except ImportError:
        raise ValueError(f"model {name!r} needs timm, which is not installed: pip install timm") from None
    name = name.removeprefix("timm/")
    if name not in timm.list_models():
        raise ValueError(f"timm has no model called {name!r}{_nearest(name, timm.list_models())}")
    return timm.create_model(name, num_classes=num_classes, in_chans=in_chans)


def _nearest(name: str, choices: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, choices, 1)
    return (
        f"; did you mean {close[0]}?" if close else f"; there are {', '.join(NAMES)}, and timm/NAME for those of timm"
    )
