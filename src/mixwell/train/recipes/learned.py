"""AutoMix, SAMix and AdAutoMix as the two settings of a config, ``policy`` and ``method``, that name them."""

from __future__ import annotations

from typing import Any

from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.mixblock import PairAttention
from mixwell.mixers.teacher import Cosine

FADING = Cosine(0.1, 0.0)  # weight of the masks' cost, but for residual networks on CIFAR and Tiny-ImageNet


def automix(*, pairing: str = "", per_sample: bool = False, **settings: Any) -> dict[str, str]:
    """Name AutoMix with some settings.

    Args:
        pairing: Who is mixed with whom, such as ``"Derangement()"``; a random permutation if empty.
        per_sample: Draw a ratio for every image instead of one for the batch.
        settings: Of :class:`mixwell.AutoMix`.

    Example:
        >>> automix(mask_weight=FADING)
        {'policy': 'MixUp(alpha=2.0)', 'method': 'AutoMix(mask_weight=Cosine())'}
    """
    return {"policy": _mixup(2.0, pairing, per_sample), "method": _text("AutoMix", settings)}


def samix(
    *,
    k: float | None = None,
    dropout: float = 0.0,
    upsampling: str = "bilinear",
    pairing: str = "",
    **settings: Any,
) -> dict[str, str]:
    """Name SAMix with some settings.

    Args:
        k: See :class:`mixwell.mixers.mixblock.PairAttention`.
        dropout: See there.
        upsampling: See there.
        pairing: Who is mixed with whom, such as ``"Derangement()"``; a random permutation if empty.
        settings: Of :class:`mixwell.SAMix`.

    Example:
        >>> samix(k=1.0)["method"]
        "SAMix(block=PairAttention(upsampling='bilinear', lam_multiply=1.0, k=1.0, pair=True, neck=True))"
    """
    block = PairAttention(lam_multiply=1.0, pair=True, neck=True, k=k, dropout=dropout, upsampling=upsampling)
    return {"policy": _mixup(2.0, pairing), "method": _text("SAMix", {"block": block, **settings})}


def adautomix(
    *,
    lam_concat: bool = True,
    norm: str | None = None,
    upsampling: str = "bilinear",
    pairing: str = "",
    **settings: Any,
) -> dict[str, str]:
    """Name AdAutoMix with some settings.

    Args:
        lam_concat: See :class:`mixwell.mixers.adaptivemask.SourceAttention`.
        norm: See there.
        upsampling: See there.
        pairing: Who is mixed with whom, such as ``"Derangement()"``; a random permutation if empty.
        settings: Of :class:`mixwell.AdAutoMix`.

    Example:
        >>> adautomix(lam_concat=False, beta=0.4)["method"]
        'AdAutoMix(block=SourceAttention(), beta=0.4)'
    """
    block = SourceAttention(lam_concat=lam_concat, norm=norm, upsampling=upsampling)
    return {"policy": _mixup(1.0, pairing), "method": _text("AdAutoMix", {"block": block, **settings})}


def _mixup(alpha: float, pairing: str, per_sample: bool = False) -> str:
    settings = [
        f"alpha={alpha}",
        *([f"pairing={pairing}"] if pairing else []),
        *(["scope='sample'"] if per_sample else []),
    ]
    return f"MixUp({', '.join(settings)})"


def _text(name: str, settings: dict[str, Any]) -> str:
    told = ", ".join(f"{setting}={value!r}" for setting, value in settings.items())
    return f"{name}({told})" if told else name
