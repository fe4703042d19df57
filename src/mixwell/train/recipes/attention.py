"""Transformers with methods of label weights: SUMix, and what mixes or labels by attention.

Data and network are in ``NETWORKS``, policy, method and loss in ``METHODS``; a recipe is one of each, such as
``cifar100_deit_small_transmix``. Settings are those of the authors where they are published. For CIFAR-100 and for Swin
and PVT they are the settings of the network's plain training, because most methods were published with DeiT on ImageNet
only. What differs: MergeMix mixes the labels by the pixels and not by random numbers, and trains on the unmixed images
as the publication says, not on MixUp as its code does; TokenMix takes its label weights from the class activation of
the classifier itself, unless ``label=SaliencyShare(ClassActivation(teacher=...), normalize=False)`` names a teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mixwell.train.config import Config
from mixwell.train.recipes import cifar_vits, imagenet

CIFAR = replace(cifar_vits.DEIT, lr=1e-3, lr_min=1e-6, warmup=20, clip=5.0)
NETWORKS = {
    "cifar100_deit_small": CIFAR,
    "cifar100_swin_tiny": replace(CIFAR, model=cifar_vits.SWIN.model, lr=5e-4),
    "imagenet_deit_small": imagenet.DEIT,
    "imagenet_swin_tiny": replace(imagenet.DEIT, model=cifar_vits.SWIN.model, warmup=20),
    "imagenet_pvt_v2_b1": replace(imagenet.DEIT, model="timm/pvt_v2_b1(drop_path_rate=0.1)", warmup=20),
}
SMOOTHED = "CrossEntropy(smoothing=0.1)"
BY_PATCHES = "SMMix(saliency=Attention(by_patches=True))"
METHODS: dict[str, dict[str, Any]] = {
    "sumix": {"policy": "CutMix(alpha=0.2)", "method": "SUMix"},
    "transmix": {"policy": "switch_mix(switch_prob=0.8)", "method": "Mixing(label=AttentionShare())"},
    "tokenmix": {
        "policy": "OneOf((TokenMix(pairing=Reverse()), MixUp(alpha=0.8, pairing=Reverse())))",
        "method": "Mixing(label=SaliencyShare(ClassActivation(), normalize=False))",
        "loss": "BinaryCrossEntropy(smoothing=0.1)",
    },
    "mixpro": {
        "policy": "OneOf((MaskMix(), switch_mix()))",
        "method": "Mixing(label=ProgressiveAttentionShare())",
        "warmup": 20.0,
    },
    "smmix": {"policy": f"OneOf(({BY_PATCHES}, MixUp(alpha=0.8, pairing=Reverse())))", "method": "RegionLoss"},
    "tla": {"policy": "CutMix(alpha=1.0)", "method": "Mixing(label=TokenLabelAlignment())"},
    "mergemix": {"policy": "MergeMix(saliency=Attention())", "method": "RegMixup"},
}
PUBLISHED: dict[str, dict[str, Any]] = {  # where the authors changed more than policy and method
    "imagenet_deit_small_transmix": {"weight_decay": 0.03, "warmup": 20.0, "ema": 0.99996, "batch_size": 2048},
    "cifar100_deit_small_mixpro": {"model": "timm/deit_small_patch16_224(drop_path_rate=0.1, patch_size=14)"},
    "imagenet_deit_small_mixpro": {"model": "timm/deit_small_patch16_224(drop_path_rate=0.1, patch_size=14)"},
}
TITLES = {
    "sumix": "SUMix over CutMix",
    "transmix": "TransMix: labels by attention, over CutMix and MixUp",
    "tokenmix": "TokenMix, or MixUp in half of the batches, with the visible class activation as labels",
    "mixpro": "MixPro: MaskMix with progressive attention labels, or MixUp and CutMix in half of the batches",
    "smmix": "SMMix, or MixUp in half of the batches; the losses of the regions are kept in both",
    "tla": "TL-Align: labels follow the tokens, over CutMix",
    "mergemix": "MergeMix, with the loss on unmixed images",
}


def _recipe(network: str, method: str) -> Callable[[], Config]:
    name = f"{network}_{method}"

    def recipe() -> Config:
        changes = {"loss": SMOOTHED, **METHODS[method], **PUBLISHED.get(name, {})}
        return replace(NETWORKS[network], recipe=name, **changes)

    data, _, model = network.partition("_")
    recipe.__name__ = recipe.__qualname__ = name
    recipe.__doc__ = f"{TITLES[method]}; {data}, {model}."
    return recipe


# TL-Align needs a transformer that attends between the same tokens in all blocks.
RECIPES = tuple(
    _recipe(network, method) for network in NETWORKS for method in METHODS if method != "tla" or "deit" in network
)
