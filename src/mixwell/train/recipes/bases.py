"""Data set and network, with the settings that all trainings on them share: images, optimizer, epochs.

CIFAR: 32 pixels, reflected crop of 4 pixels and flip; transformers at 224 pixels. ``vit_small`` is the one of MergeMix,
with 8 blocks of 768 channels; MergeMix's ViT-B is ``deit_base``, which has the same architecture. Tiny-ImageNet: 64
pixels, with the networks of CIFAR; the released runs of ResNeXt-50 had two GPUs of 50 images each. CUB-200, Aircraft
and Cars: 224 pixels, from torchvision's ImageNet weights by way of timm; without a network, ``--weights resnet18.pth``
names a file. ImageNet: a folder with ``train/CLASS/*.jpg`` and ``val/CLASS/*.jpg``.

Batches are those of all processes together. Warm-up begins at its first step's share of the peak and not at 1e-5 of it.
RandAugment is timm's, of 15 operations and not 14. Random crops are cut from the whole image, not from one that was
resized to 256 pixels before. No augmentation is on record for ConvNeXt at 32 pixels: it has that of the other networks
of that size. RSB is that of OpenMixup, whose accuracies are listed: targets of the loss are the weights of the mixed
labels, whereas the first publication has a target of 1 for each mixed class.
"""

from __future__ import annotations

from dataclasses import replace

from mixwell.train.config import Config

_CIFAR = Config(
    dataset="cifar100", image_size=32, crop=4, flip=True, epochs=800, batch_size=100, lr=0.1, weight_decay=1e-4,
    save_every=5,
)  # fmt: skip
_VIT = Config(
    dataset="cifar100", image_size=224, scale=0.8, flip=True, augment="rand-m7-n2-mstd0.5",
    loss="CrossEntropy(smoothing=0.1)", epochs=200, batch_size=100, optimizer="adamw", lr=1e-3, lr_min=1e-6, warmup=20,
    weight_decay=0.05, decay_all=False, clip=5.0, workers=8, save_every=5,
)  # fmt: skip
_CONVNEXT = replace(_VIT, image_size=32, crop=4, scale=0.08, augment="", lr_min=1e-4, clip=0.0, workers=0)
_TINY = Config(
    dataset="tiny_imagenet", image_size=64, eval_crop=1.0, flip=True, epochs=400, batch_size=100, lr=0.2,
    weight_decay=1e-4, workers=8, save_every=5,
)  # fmt: skip
_FINE = Config(
    image_size=224, scale=0.5, flip=True, weights="timm/tv_in1k", epochs=200, batch_size=16, lr=1e-3,
    weight_decay=5e-4, workers=8, save_every=5,
)  # fmt: skip
_IMAGENET = Config(
    dataset="folder", image_size=224, flip=True, epochs=100, batch_size=256, lr=0.1, weight_decay=1e-4, workers=8
)
_DEIT = Config(
    dataset="folder", image_size=224, flip=True, augment="rand-m9-mstd0.5-inc1", erasing=0.25,
    loss="CrossEntropy(smoothing=0.1)", epochs=300, batch_size=1024, optimizer="adamw", lr=1e-3, lr_min=1e-5, warmup=5,
    weight_decay=0.05, decay_all=False, clip=5.0, workers=8,
)  # fmt: skip
_PVT = replace(_DEIT, clip=0.0, repeats=3)
_MOGANET = replace(_DEIT, augment="rand-m7-mstd0.5-inc1", eval_crop=0.9, lr_min=1e-6, weight_decay=0.04, clip=0.0)
_A2 = Config(
    dataset="folder", image_size=224, eval_crop=0.95, flip=True, augment="rand-m7-mstd0.5-inc1",
    loss="BinaryCrossEntropy()", epochs=300, batch_size=2048, optimizer="lamb", lr=5e-3, lr_min=1e-6, warmup=5,
    weight_decay=0.02, decay_all=False, repeats=3, workers=8,
)  # fmt: skip
_A3 = replace(_A2, image_size=160, eval_size=224, augment="rand-m6-mstd0.5-inc1", epochs=100, lr=8e-3, repeats=1)

_SMALL = {"resnet18": "resnet18", "resnext50": "resnext50_32x4d"}  # networks for images of 32 and 64 pixels
_LARGE = {
    "resnet18": "timm/resnet18",
    "resnet34": "timm/resnet34",
    "resnet50": "timm/resnet50",
    "resnet101": "timm/resnet101",
    "resnext50": "timm/resnext50_32x4d",
    "resnext101": "timm/resnext101_32x4d",
    "efficientnet_b0": "timm/efficientnet_b0",
    "mobilenet_v2": "timm/mobilenetv2_100",
    "deit_tiny": "timm/deit_tiny_patch16_224(drop_path_rate=0.1)",
    "deit_small": "timm/deit_small_patch16_224(drop_path_rate=0.1)",
    "deit_base": "timm/deit_base_patch16_224(drop_path_rate=0.1)",
    "vit_small": "timm/vit_base_patch16_224(depth=8, num_heads=8, mlp_ratio=3.0, drop_path_rate=0.1)",
    "vit_large": "timm/vit_large_patch16_224(drop_path_rate=0.1)",
    "swin_tiny": "timm/swin_tiny_patch4_window7_224(drop_path_rate=0.2)",
    "convnext_tiny": "timm/convnext_tiny(drop_path_rate=0.1)",
    "pvt_tiny": "pvt_tiny(drop_path_rate=0.1)",
    "pvt_small": "pvt_small(drop_path_rate=0.1)",
    "pvt_v2_b1": "timm/pvt_v2_b1(drop_path_rate=0.1)",
    "moganet_tiny": "moganet_tiny(drop_path_rate=0.1)",
}


def _bases(
    data: str, base: Config, networks: str, models: dict[str, str] = _LARGE, suffix: str = ""
) -> dict[str, Config]:
    """Return the configs of a data set with several networks, by name."""
    return {f"{data}_{network}{suffix}": replace(base, model=models[network]) for network in networks.split()}


BASES: dict[str, Config] = {
    **_bases("cifar10", replace(_CIFAR, dataset="cifar10"), "resnet18 resnext50", _SMALL),
    **_bases("cifar100", _CIFAR, "resnet18 resnext50", _SMALL),
    "cifar100_wrn28_8": replace(_CIFAR, model="wide_resnet28_8", epochs=400, lr=0.03, weight_decay=1e-3),
    **_bases("cifar100", _VIT, "deit_tiny deit_small"),
    **_bases("cifar100", replace(_VIT, lr=5e-4), "deit_base vit_small"),
    **_bases("cifar100", replace(_VIT, lr=2e-4), "vit_large"),
    **_bases("cifar100", replace(_VIT, lr=5e-4), "swin_tiny"),
    "cifar100_convnext_tiny": replace(_CONVNEXT, model="timm/convnext_tiny(drop_path_rate=0.3, patch_size=1)"),
    **_bases("tiny_imagenet", _TINY, "resnet18 resnext50", _SMALL),
    **_bases("cub200", replace(_FINE, dataset="cub200"), "resnet18 resnet50 resnext50"),
    **_bases("aircraft", replace(_FINE, dataset="aircraft"), "resnet18 resnext50"),
    **_bases("cars", replace(_FINE, dataset="cars"), "resnet18 resnext50"),
    **_bases("imagenet", _IMAGENET, "resnet18 resnet34 resnet50 resnet101 resnext101"),
    **_bases("imagenet", _DEIT, "deit_tiny deit_small deit_base"),
    **_bases("imagenet", _PVT, "pvt_tiny pvt_small"),
    **_bases("imagenet", replace(_DEIT, warmup=20), "swin_tiny pvt_v2_b1"),
    **_bases("imagenet", _MOGANET, "moganet_tiny"),
    "imagenet_convnext_tiny": replace(
        _DEIT, model=_LARGE["convnext_tiny"], batch_size=4096, accumulate=4, lr=4e-3, lr_min=1e-6, warmup=20, clip=0.0
    ),
    "imagenet_resnet50_rsb_a2": replace(_A2, model="timm/resnet50(drop_path_rate=0.05)"),
    **_bases("imagenet", _A2, "efficientnet_b0 mobilenet_v2", suffix="_rsb_a2"),
    **_bases("imagenet", _A3, "resnet50 efficientnet_b0 mobilenet_v2", suffix="_rsb_a3"),
    **_bases("inaturalist2017", replace(_IMAGENET, dataset="inaturalist"), "resnet18 resnet50 resnext101"),
    **_bases("inaturalist2018", replace(_IMAGENET, dataset="inaturalist"), "resnet50 resnext101"),
    **_bases("places205", replace(_IMAGENET, dataset="places205"), "resnet18 resnet50"),
}
