"""Recipes: functions that return a ``Config``. A variant is a replaced field, not another file."""

from __future__ import annotations

from collections.abc import Callable

from mixwell.train.config import Config
from mixwell.train.recipes import attention, cifar, cifar_vits, finegrained, imagenet, small, tiny_imagenet

Recipe = Callable[[], Config]

FAMILIES: dict[str, tuple[Recipe, ...]] = {
    "to start with": (small.digits, small.cifar100_mini, small.cifar100_mini_automix, small.folder),
    "CIFAR": (
        cifar.cifar100_resnet18,
        cifar.cifar10_resnet18,
        cifar.cifar100_resnet18_automix,
        cifar.cifar100_resnet18_samix,
        cifar.cifar100_resnet18_adautomix,
        cifar.cifar100_resnext50_automix,
        cifar.cifar100_resnext50_samix,
        cifar.cifar100_resnext50_adautomix,
        cifar.cifar100_wrn28_8_automix,
        cifar.cifar100_wrn28_8_samix,
    ),
    "CIFAR, transformers": (
        cifar_vits.cifar100_deit_small_automix,
        cifar_vits.cifar100_deit_small_samix,
        cifar_vits.cifar100_deit_small_adautomix,
        cifar_vits.cifar100_deit_tiny_adautomix,
        cifar_vits.cifar100_deit_base_adautomix,
        cifar_vits.cifar100_swin_tiny_automix,
        cifar_vits.cifar100_swin_tiny_samix,
        cifar_vits.cifar100_swin_tiny_adautomix,
        cifar_vits.cifar100_convnext_tiny_automix,
        cifar_vits.cifar100_convnext_tiny_samix,
    ),
    "Tiny-ImageNet": (
        tiny_imagenet.tiny_imagenet_resnet18_automix,
        tiny_imagenet.tiny_imagenet_resnet18_samix,
        tiny_imagenet.tiny_imagenet_resnet18_adautomix,
        tiny_imagenet.tiny_imagenet_resnext50_automix,
        tiny_imagenet.tiny_imagenet_resnext50_samix,
        tiny_imagenet.tiny_imagenet_resnext50_adautomix,
    ),
    "fine-grained": (
        finegrained.cub200_resnet18_automix,
        finegrained.cub200_resnet18_samix,
        finegrained.cub200_resnet18_adautomix,
        finegrained.cub200_resnet50_adautomix,
        finegrained.cub200_resnext50_automix,
        finegrained.cub200_resnext50_samix,
        finegrained.cub200_resnext50_adautomix,
        finegrained.aircraft_resnet18_automix,
        finegrained.aircraft_resnet18_samix,
        finegrained.aircraft_resnet18_adautomix,
        finegrained.aircraft_resnext50_automix,
        finegrained.aircraft_resnext50_samix,
        finegrained.aircraft_resnext50_adautomix,
    ),
    "ImageNet": (
        imagenet.imagenet_resnet50_automix,
        imagenet.imagenet_resnet50_samix,
        imagenet.imagenet_resnet50_adautomix,
        imagenet.imagenet_resnet18_adautomix,
        imagenet.imagenet_deit_small_automix,
        imagenet.imagenet_swin_tiny_automix,
        imagenet.imagenet_convnext_tiny_automix,
    ),
    "transformers, attention and label weights": attention.RECIPES,
}
RECIPES: dict[str, Recipe] = {recipe.__name__: recipe for family in FAMILIES.values() for recipe in family}
