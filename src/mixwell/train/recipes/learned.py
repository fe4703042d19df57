"""AutoMix, SAMix and AdAutoMix: settings of the methods, and what each data set and network changes, as released.

The learning rate of CIFAR and Tiny-ImageNet never falls below a lowest value, and the block of CIFAR has the
classifier's own settings, but for WRN-28-8, whose block learns without momentum. What differs from the released
settings:

* SAMix's reward for mask variance ends at a variance of 0.1, the released one never.
* Runs of 800 epochs of SAMix on CIFAR-100 were released with ``mask_adjust=0.25`` besides.
* Some released settings for Swin and ConvNeXt cannot run: masks of 112 pixels for images of 224, and 768 channels where
  there are 384. Here masks have the size of the images, and channels are read off the network.
* Runs of 600 epochs of Swin-T scale masks in one of two ways, chosen by chance; that is not offered. Those of
  ConvNeXt-T with SAMix have ``--lr 0.002``, and ``"lr": 0.001`` for the block.
* AutoMix for ViT-L was released with the layer and the channels of a smaller network; here its block reads the middle
  one of 24 blocks, as that of AdAutoMix.
* Classes are those of the data set. The released AutoMix for Aircraft with ResNeXt-50 trains on CUB by mistake, and
  runs with DeiT have 1000 classes on CIFAR-100.
* In half precision, queries and keys of ImageNet with DeiT-S were released with ``norm="layer"``.

``bilinear`` and ``nomomentum`` (ResNet-50 on ImageNet) and ``nolam`` (DeiT-S on CIFAR-100) are second configurations of
the same network: masks scaled bilinearly with a reward for their variance, a block that learns without momentum, and
one that does not receive the ratio and is trained in every step. The last was released beside the runs of MergeMix's
tables, and has their accuracy.

Settings for RSB, for SAMix with transformers on ImageNet and on Cars, for PVT-S and MogaNet, for ResNet-50 on CUB with
AutoMix and SAMix, and for ResNet-101 and ResNeXt-101 with AdAutoMix were not released: they are those of the nearest
data set and network.
"""

from __future__ import annotations

from typing import Any, Literal

from mixwell.mixers.adaptivemask import SourceAttention
from mixwell.mixers.masks import AreaHinge, SumOf, VarianceBonus
from mixwell.mixers.mixblock import PairAttention, Upsampling
from mixwell.mixers.teacher import Momentum
from mixwell.schedule import Cosine

Changes = dict[str, Any]


def automix(policy: str = "MixUp(alpha=2.0)", **settings: Any) -> Changes:
    """Return the settings of AutoMix.

    Args:
        policy: Draws the ratio and the partners.
        settings: Settings of :class:`mixwell.AutoMix`; ``lr_min`` in ``block_group`` becomes ``block_lr_min``.

    Example:
        >>> automix(mask_weight=Cosine(0.1, 0.0))
        {'policy': 'MixUp(alpha=2.0)', 'method': 'AutoMix(mask_weight=Cosine(start=0.1, end=0.0))'}
    """
    return _changes("AutoMix", policy, settings)


def samix(
    policy: str = "MixUp(alpha=2.0)",
    *,
    k: float | None = None,
    dropout: float = 0.0,
    upsampling: Upsampling = "bilinear",
    **settings: Any,
) -> Changes:
    """Return the settings of SAMix.

    Args:
        policy: Draws the ratio and the partners.
        k: See :class:`mixwell.mixers.mixblock.PairAttention`.
        dropout: See there.
        upsampling: See there.
        settings: See :func:`automix`.

    Example:
        >>> samix(k=1.0)["method"]
        "SAMix(block=PairAttention(upsampling='bilinear', lam_multiply=1.0, k=1.0, pair=True, neck=True))"
    """
    block = PairAttention(lam_multiply=1.0, pair=True, neck=True, k=k, dropout=dropout, upsampling=upsampling)
    return _changes("SAMix", policy, {"block": block, **settings})


def adautomix(
    policy: str = "MixUp(alpha=1.0)",
    *,
    lam_concat: bool = True,
    norm: Literal["batch", "layer"] | None = None,
    upsampling: Upsampling = "bilinear",
    **settings: Any,
) -> Changes:
    """Return the settings of AdAutoMix.

    Args:
        policy: Draws the ratio and the partners.
        lam_concat: See :class:`mixwell.mixers.adaptivemask.SourceAttention`.
        norm: See there.
        upsampling: See there.
        settings: See :func:`automix`.

    Example:
        >>> adautomix(lam_concat=False, beta=0.4)["method"]
        'AdAutoMix(block=SourceAttention(), beta=0.4)'
    """
    block = SourceAttention(lam_concat=lam_concat, norm=norm, upsampling=upsampling)
    return _changes("AdAutoMix", policy, {"block": block, **settings})


def _changes(name: str, policy: str, settings: Changes) -> Changes:
    group = dict(settings.get("block_group", {}))
    lr_min = {"block_lr_min": group.pop("lr_min")} if "lr_min" in group else {}
    if group:
        settings = {**settings, "block_group": group}
    arguments = ", ".join(f"{setting}={value!r}" for setting, value in settings.items())
    return {"policy": policy, "method": f"{name}({arguments})" if arguments else name, **lr_min}


def _for(names: str, changes: Changes) -> dict[str, Changes]:
    return dict.fromkeys(names.split(), changes)


def _block(lr: float, lr_min: float, **changes: Any) -> Changes:
    return {"block_group": {"lr": lr, "lr_min": lr_min}, **changes}


_FADING: Changes = {"mask_weight": Cosine(0.1, 0.0)}  # but for residual networks on CIFAR and Tiny-ImageNet
_CONCAT: Changes = {"block": PairAttention(lam_concat=True), **_FADING}
_DROPOUT: Changes = {"dropout": 0.1, **_FADING}
_DERANGED = "MixUp(alpha=2.0, pairing=Derangement())"

# CIFAR and Tiny-ImageNet, residual networks
_SMALL: Changes = {"epochs": 400, "lr_min": 0.05}
_WIDE: Changes = {"block_group": {"lr": 0.03, "momentum": 0.0}}
_TINY = _block(0.1, 1e-3)
_SMALL_RECIPES = {
    **_for("cifar10_resnet18_automix cifar10_resnext50_automix", _SMALL | automix()),
    **_for("cifar10_resnet18_samix cifar10_resnext50_samix", _SMALL | samix(k=0.25)),
    **_for("cifar100_resnet18_automix cifar100_resnext50_automix", _SMALL | automix()),
    **_for("cifar100_resnet18_samix cifar100_resnext50_samix", _SMALL | samix(k=0.25)),
    **_for(
        "cifar100_resnet18_adautomix cifar100_resnext50_adautomix",
        _SMALL | adautomix(lam_concat=False, sources=3, beta=0.3),
    ),
    "cifar100_wrn28_8_automix": {"lr_min": 1e-3} | automix(**_WIDE),
    "cifar100_wrn28_8_samix": {"lr_min": 1e-3} | samix(k=0.25, **_WIDE),
    **_for("tiny_imagenet_resnet18_automix tiny_imagenet_resnext50_automix", _SMALL | automix(**_TINY)),
    "tiny_imagenet_resnet18_samix": _SMALL | samix(**_TINY),
    "tiny_imagenet_resnext50_samix": _SMALL | samix(k=0.25, **_TINY),
    "tiny_imagenet_resnet18_adautomix": adautomix(lam_concat=False, sources=3, beta=0.4, block_group={"lr": 0.1}),
    "tiny_imagenet_resnext50_adautomix": _SMALL | adautomix(lam_concat=False, sources=3, beta=0.4, **_TINY),
}

# CIFAR-100, transformers and ConvNeXt
_MERGED = "layers.3.downsample"  # 768 channels of 7 x 7 places, behind the merging of patches, as released
_AVERAGE: Changes = {"momentum": Momentum(end=0.99996, warm=0.25)}
_RATE: Changes = {"lr": 5e-4, "lr_min": 1e-4, "warmup": 5.0, "clip": 10.0}
_SWIN: Changes = {"lr_min": 1e-4, "clip": 10.0}
_LARGE: Changes = {"lr": 5e-4, "lr_min": 0.0, "warmup": 5.0}
_SOURCES: Changes = {"upsampling": "nearest", "sources": 3, "beta": 0.3}
_TOKEN_RECIPES = {
    "cifar100_deit_small_automix": _RATE | automix(**_block(1e-3, 1e-4), **_CONCAT, **_AVERAGE),
    "cifar100_deit_small_samix": {"lr": 7.5e-4, "lr_min": 1e-4, "clip": 20.0}
    | samix(upsampling="nearest", **_block(7.5e-4, 1e-4), **_DROPOUT, **_AVERAGE),
    "cifar100_deit_small_adautomix": _RATE | adautomix(**_SOURCES, block_p=0.8, **_block(1e-3, 1e-4), **_AVERAGE),
    "cifar100_deit_tiny_adautomix": {"warmup": 5.0} | adautomix(**_SOURCES, **_block(0.05, 0.005), **_AVERAGE),
    "cifar100_deit_small_nolam_adautomix": _RATE
    | adautomix(lam_concat=False, **_SOURCES, **_block(1e-3, 1e-4), **_AVERAGE),
    "cifar100_deit_tiny_automix": {"warmup": 5.0} | automix(**_block(0.05, 0.005), **_CONCAT, **_AVERAGE),
    "cifar100_deit_base_automix": {"lr_min": 0.0, "warmup": 5.0}
    | automix(block_p=0.5, **_block(5e-6, 0.0), **_CONCAT, **_AVERAGE),
    "cifar100_deit_base_adautomix": {"lr_min": 0.0, "warmup": 5.0}
    | adautomix(lam_concat=False, **_SOURCES, **_block(5e-5, 5e-6), **_AVERAGE),
    "cifar100_vit_small_automix": {"warmup": 5.0} | automix(**_block(5e-5, 5e-6), **_CONCAT, **_AVERAGE),
    "cifar100_vit_small_adautomix": {"warmup": 5.0}
    | adautomix(lam_concat=False, **_SOURCES, **_block(5e-5, 5e-6), **_AVERAGE),
    "cifar100_vit_large_automix": _LARGE | automix(**_block(5e-5, 0.0), **_CONCAT, **_AVERAGE),
    "cifar100_vit_large_adautomix": _LARGE | adautomix(**_SOURCES, **_block(5e-5, 0.0), **_AVERAGE),
    "cifar100_swin_tiny_automix": _SWIN | automix(layer=_MERGED, **_block(1e-3, 1e-4), **_CONCAT, **_AVERAGE),
    "cifar100_swin_tiny_samix": {"lr_min": 1e-4, "clip": 20.0}
    | samix(upsampling="nearest", layer=_MERGED, **_block(5e-4, 1e-4), **_DROPOUT, **_AVERAGE),
    "cifar100_swin_tiny_adautomix": _SWIN
    | adautomix(**_SOURCES, random_sources=True, margin=0.0, layer=_MERGED, **_block(1e-3, 1e-4), **_AVERAGE),
    "cifar100_convnext_tiny_automix": {"lr": 2e-3} | automix(**_block(1e-3, 1e-4), **_CONCAT, **_AVERAGE),
    "cifar100_convnext_tiny_samix": {"clip": 20.0} | samix(**_block(7.5e-4, 1e-4), **_DROPOUT, **_AVERAGE),
    "cifar100_convnext_tiny_adautomix": {"lr": 2e-3} | adautomix(**_SOURCES, **_block(1e-3, 1e-4), **_AVERAGE),
}

# CUB-200, Aircraft, Cars
_TEACHER: Changes = {"momentum": Momentum(end=0.99999)}
_FINE = _block(0.01, 5e-4)
_REWARDED: Changes = {"mask_loss": SumOf((AreaHinge(), VarianceBonus()))}
_THREE: Changes = {"sources": 3, **_TEACHER, **_block(0.1, 1e-3)}
_FINE_RECIPES = {
    **_for(
        "cub200_resnet18_automix cub200_resnet50_automix aircraft_resnet18_automix",
        automix(_DERANGED, **_CONCAT, **_TEACHER, **_FINE),
    ),
    **_for(
        "cub200_resnext50_automix aircraft_resnext50_automix",
        automix(_DERANGED, **_REWARDED, **_CONCAT, **_TEACHER, **_FINE),
    ),
    **_for("cars_resnet18_automix cars_resnext50_automix", automix(**_CONCAT, **_TEACHER, **_block(0.1, 1e-3))),
    **_for(
        "cub200_resnet18_samix cub200_resnet50_samix cub200_resnext50_samix cars_resnet18_samix cars_resnext50_samix",
        samix(_DERANGED, k=1.0, **_TEACHER, **_DROPOUT, **_FINE),
    ),
    **_for(
        "aircraft_resnet18_samix aircraft_resnext50_samix",
        samix(_DERANGED, k=1.0, momentum=Momentum(end=0.99996), **_DROPOUT, **_FINE),
    ),
    "cub200_resnet18_adautomix": adautomix(beta=0.3, random_sources=True, **_THREE),
    "cub200_resnet50_adautomix": adautomix(beta=0.1, **_THREE),
    "cub200_resnext50_adautomix": adautomix(
        "MixUp(alpha=1.0, pairing=Derangement())", beta=0.1, **{**_THREE, **_block(0.1, 5e-4)}
    ),
    "aircraft_resnet18_adautomix": {"lr_min": 5e-4} | adautomix(beta=0.3, random_sources=True, margin=0.0, **_THREE),
    "aircraft_resnext50_adautomix": adautomix(beta=0.6, random_sources=True, **_THREE),
    "cars_resnet18_adautomix": adautomix(beta=0.5, **_THREE),
    "cars_resnext50_adautomix": adautomix(beta=0.3, **_THREE),
}

# ImageNet, iNaturalist, Places205
_RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext101")
_RSB = [f"{network}_rsb_{name}" for network in ("resnet50", "efficientnet_b0", "mobilenet_v2") for name in ("a2", "a3")]
_LOWER = "inaturalist2017_resnet50 inaturalist2017_resnext101 inaturalist2018_resnet50 inaturalist2018_resnext101"
_HIGHER = "inaturalist2017_resnet18 places205_resnet18 places205_resnet50"
_HEAD = _block(0.1, 1e-3, **_TEACHER)
_LOW_HEAD = _block(0.1, 1e-4, **_TEACHER)
_TOKENS: Changes = {"momentum": Momentum(end=0.99999, warm=0.25), "block_p": 0.8, **_block(1e-3, 1e-4)}
_PVT: Changes = {"clip": 5.0, "repeats": 1}
_WITHOUT_MOMENTUM: Changes = {**_TEACHER, "block_group": {"lr": 0.1, "momentum": 0.0, "lr_min": 1e-3}}
_WARMER: Changes = {**_TOKENS, **_AVERAGE, **_block(4e-3, 1e-4)}
_LARGE_RECIPES = {
    **{f"imagenet_{name}_automix": automix(**_CONCAT, **_HEAD) for name in _RESNETS},
    **{f"imagenet_{name}_samix": samix(**_DROPOUT, **_HEAD) for name in _RESNETS},
    "imagenet_resnet50_bilinear_automix": automix(
        block=PairAttention(lam_concat=True, upsampling="bilinear"), **_REWARDED, **_FADING, **_HEAD
    ),
    "imagenet_resnet50_nomomentum_automix": automix(**_CONCAT, **_WITHOUT_MOMENTUM),
    "imagenet_resnet50_nomomentum_samix": samix(**_DROPOUT, **_WITHOUT_MOMENTUM),
    **{f"imagenet_{name}_adautomix": adautomix(sources=2, beta=0.1, **_HEAD) for name in _RESNETS[:2]},
    **{f"imagenet_{name}_adautomix": adautomix(norm="batch", sources=2, beta=0.1, **_HEAD) for name in _RESNETS[2:]},
    **{f"imagenet_{name}_automix": automix(**_CONCAT, **_TEACHER) for name in _RSB},
    **{f"imagenet_{name}_samix": samix(**_DROPOUT, **_TEACHER) for name in _RSB},
    **{f"imagenet_deit_{size}_automix": automix(**_CONCAT, **_TOKENS) for size in ("tiny", "small", "base")},
    **{
        f"imagenet_deit_{size}_samix": samix(upsampling="nearest", **_DROPOUT, **_TOKENS)
        for size in ("tiny", "small", "base")
    },
    **{f"imagenet_pvt_{size}_automix": _PVT | automix(**_CONCAT, **_TOKENS) for size in ("tiny", "small")},
    **{
        f"imagenet_pvt_{size}_samix": _PVT | samix(upsampling="nearest", **_DROPOUT, **_TOKENS)
        for size in ("tiny", "small")
    },
    "imagenet_moganet_tiny_automix": automix(**_CONCAT, **_TOKENS),
    "imagenet_moganet_tiny_samix": samix(**_DROPOUT, **_TOKENS),
    "imagenet_swin_tiny_automix": automix(layer=_MERGED, **_CONCAT, **_TOKENS),
    "imagenet_swin_tiny_samix": samix(upsampling="nearest", layer=_MERGED, **_DROPOUT, **_TOKENS),
    "imagenet_convnext_tiny_automix": automix(**_CONCAT, **_WARMER),
    "imagenet_convnext_tiny_samix": samix(**_DROPOUT, **_WARMER),
    **{f"{base}_automix": automix(**_CONCAT, **_LOW_HEAD) for base in _LOWER.split()},
    **{f"{base}_automix": automix(**_CONCAT, **_HEAD) for base in _HIGHER.split()},
    **{f"{base}_samix": samix(**_DROPOUT, **_LOW_HEAD) for base in _LOWER.split()},
    "inaturalist2017_resnet18_samix": samix(**_DROPOUT, **_HEAD),
    **_for("places205_resnet18_samix places205_resnet50_samix", samix(**_DROPOUT, **_LOW_HEAD)),
}

LEARNED: dict[str, Changes] = {**_SMALL_RECIPES, **_TOKEN_RECIPES, **_FINE_RECIPES, **_LARGE_RECIPES}
