"""AutoMix, SAMix and AdAutoMix as settings of a config: ``policy``, ``method`` and, if given, ``block_lr_min``."""

from __future__ import annotations

from typing import Any, Literal

from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.mixblock import PairAttention, Upsampling
from mixwell.schedule import Cosine

FADING = Cosine(0.1, 0.0)  # weight of the mask loss, except for residual networks on CIFAR and Tiny-ImageNet


def automix(*, pairing: str = "", per_sample: bool = False, **settings: Any) -> dict[str, Any]:
    """Return the settings of AutoMix.

    Args:
        pairing: Who is mixed with whom, such as ``"Derangement()"``; a random permutation if empty.
        per_sample: Draw a ratio for every image instead of one for the batch.
        settings: Settings of :class:`mixwell.AutoMix`; ``lr_min`` in ``block_group`` becomes ``block_lr_min``.

    Example:
        >>> automix(mask_weight=FADING)
        {'policy': 'MixUp(alpha=2.0)', 'method': 'AutoMix(mask_weight=Cosine(start=0.1, end=0.0))'}
    """
    return _config("AutoMix", _mixup(2.0, pairing, per_sample), settings)


def samix(
    *,
    k: float | None = None,
    dropout: float = 0.0,
    upsampling: Upsampling = "bilinear",
    pairing: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Return the settings of SAMix.

    Args:
        k: See :class:`mixwell.mixers.mixblock.PairAttention`.
        dropout: See there.
        upsampling: See there.
        pairing: Who is mixed with whom, such as ``"Derangement()"``; a random permutation if empty.
        settings: See :func:`automix`.

    Example:
        >>> samix(k=1.0)["method"]
        "SAMix(block=PairAttention(upsampling='bilinear', lam_multiply=1.0, k=1.0, pair=True, neck=True))"
    """
    block = PairAttention(lam_multiply=1.0, pair=True, neck=True, k=k, dropout=dropout, upsampling=upsampling)
    return _config("SAMix", _mixup(2.0, pairing), {"block": block, **settings})


def adautomix(
    *,
    lam_concat: bool = True,
    norm: Literal["batch", "layer"] | None = None,
    upsampling: Upsampling = "bilinear",
    pairing: str = "",
    **settings: Any,
) -> dict[str, Any]:
    """Return the settings of AdAutoMix.

    Args:
        lam_concat: See :class:`mixwell.mixers.adaptivemask.SourceAttention`.
        norm: See there.
        upsampling: See there.
        pairing: Who is mixed with whom, such as ``"Derangement()"``; a random permutation if empty.
        settings: See :func:`automix`.

    Example:
        >>> adautomix(lam_concat=False, beta=0.4)["method"]
        'AdAutoMix(block=SourceAttention(), beta=0.4)'
    """
    block = SourceAttention(lam_concat=lam_concat, norm=norm, upsampling=upsampling)
    return _config("AdAutoMix", _mixup(1.0, pairing), {"block": block, **settings})


def _mixup(alpha: float, pairing: str, per_sample: bool = False) -> str:
    settings = [
        f"alpha={alpha}",
        *([f"pairing={pairing}"] if pairing else []),
        *(["scope='sample'"] if per_sample else []),
    ]
    return f"MixUp({', '.join(settings)})"


def _config(name: str, policy: str, settings: dict[str, Any]) -> dict[str, Any]:
    group = dict(settings.get("block_group", {}))
    lr_min = {"block_lr_min": group.pop("lr_min")} if "lr_min" in group else {}
    if group:
        settings = {**settings, "block_group": group}
    arguments = ", ".join(f"{setting}={value!r}" for setting, value in settings.items())
    return {"policy": policy, "method": f"{name}({arguments})" if arguments else name, **lr_min}
