"""Policy and method, and what a training changes in the settings of a data set and network.

``{alpha}`` is the parameter of the Beta distribution, which depends on the data set: see ``published.csv``. Settings
are those of the authors where they are published; the others are those of the network's plain training. What differs:

* Co-Mixup trains on mixed images only; the authors add the loss of the unmixed ones, as
  ``method=PerturbedMixing(p=0.0, clean_lam=1.0)`` does.
* MergeMix mixes labels by pixels and not by random numbers, and trains on the unmixed images as the publication says,
  not on MixUp as its code does.
* TokenMix takes its label weights from the class activation of the classifier itself, unless
  ``label=SaliencyShare(ClassActivation(teacher=...), normalize=False)`` names a teacher; AttentiveMix likewise.
* TL-Align needs a transformer that attends between the same tokens in all blocks.
"""

from __future__ import annotations

from typing import Any

from mixwell.train.recipes.bases import BASES
from mixwell.train.recipes.learned import LEARNED

Changes = dict[str, Any]

_POLICIES = {
    "mixup": "MixUp(alpha={alpha})",
    "cutmix": "CutMix(alpha={alpha})",
    "fmix": "FMix(alpha={alpha})",
    "saliencymix": "SaliencyMix(alpha={alpha})",
    "resizemix": "ResizeMix()",
    "puzzlemix": "PuzzleMix(alpha={alpha})",
    "comixup": "CoMixup(alpha={alpha})",
    "smoothmix": "SmoothMix()",
    "attentivemix": "AttentiveMix(alpha={alpha}, top=None)",
    "gridmixup": "GridMixup(alpha={alpha})",
    "mixup_cutmix": "switch_mix()",
}
_WITH_SUMIX = ("mixup", "cutmix", "fmix", "saliencymix", "resizemix", "puzzlemix")
_SMMIX = "OneOf((SMMix(saliency=Attention(by_patches=True)), MixUp(alpha=0.8, pairing=Reverse())))"
TRAININGS: dict[str, Changes] = {
    "plain": {},
    **{name: {"policy": policy} for name, policy in _POLICIES.items()},
    "manifoldmix": {"policy": "MixUp(alpha={alpha})", "method": "HiddenMix"},
    "alignmix": {"method": "AlignMix"},
    "sumix": {"policy": "CutMix(alpha=0.2)", "method": "SUMix"},
    **{f"{name}_sumix": {"policy": _POLICIES[name], "method": "SUMix"} for name in _WITH_SUMIX},
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
    "smmix": {"policy": _SMMIX, "method": "RegionLoss"},
    "tla": {"policy": "CutMix(alpha=1.0)", "method": "Mixing(label=TokenLabelAlignment())"},
    "mergemix": {"policy": "MergeMix(saliency=Attention())", "method": "RegMixup"},
    "automix": {},
    "samix": {},
    "adautomix": {},
    **{name: {} for name in ("bilinear_automix", "nomomentum_automix", "nomomentum_samix", "nolam_adautomix")},
}
_WITH_MIXPRO = (
    *("cifar100_deit_tiny", "cifar100_deit_small", "cifar100_deit_base", "cifar100_vit_small", "cifar100_vit_large"),
    "imagenet_deit_small",
)
_DECAY = {"weight_decay": 5e-4}  # ResNeXt-50 on CIFAR, with policies that cut
_CUTTING = ("cutmix", "fmix", "saliencymix", "resizemix", "attentivemix", "gridmixup")
OF_BASE: dict[str, Changes] = {  # by the name of a recipe: where a training changes more with this data set and network
    **LEARNED,
    **{f"{data}_resnext50_{name}": _DECAY for data in ("cifar10", "cifar100") for name in _CUTTING},
    **{
        f"tiny_imagenet_{network}_{name}_sumix": {"method": "SUMix(gamma=1.0)"}
        for network in ("resnet18", "resnext50")
        for name in _WITH_SUMIX
    },
    **{f"imagenet_resnet18_{name}_sumix": {"method": "SUMix(is_norm=False)"} for name in _WITH_SUMIX},
    **{
        f"imagenet_{network}_rsb_{setting}_mixup_cutmix": {"policy": "switch_mix(mixup_alpha=0.1)"}
        for network in ("resnet50", "efficientnet_b0", "mobilenet_v2")
        for setting in ("a2", "a3")
    },
    "imagenet_deit_small_transmix": {"weight_decay": 0.03, "warmup": 20.0, "ema": 0.99996, "batch_size": 2048},
    "imagenet_pvt_small_smmix": {"policy": _SMMIX.replace("SMMix(", "SMMix(cells=7, ")},  # places of its last map
    "imagenet_moganet_tiny_mixup_cutmix": {"policy": "switch_mix(mixup_alpha=0.1)"},
    **{f"{base}_mixpro": {"model": BASES[base].model.replace(")", ", patch_size=14)")} for base in _WITH_MIXPRO},
}
