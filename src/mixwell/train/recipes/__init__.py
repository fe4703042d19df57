"""Recipes: functions that return a ``Config``. A variant is a replaced field, not another file."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import ModuleType

from mixwell.train.config import Config
from mixwell.train.recipes import attention, cifar, cifar_vits, finegrained, imagenet, small, tiny_imagenet

Recipe = Callable[[], Config]


def _recipes(module: ModuleType) -> tuple[Recipe, ...]:
    """Return the functions of a module that take nothing and return a ``Config``, in the order of the source."""
    found = (each for each in vars(module).values() if inspect.isfunction(each) and each.__module__ == module.__name__)
    return tuple(each for each in found if inspect.get_annotations(each) == {"return": "Config"})


FAMILIES: dict[str, tuple[Recipe, ...]] = {
    "to start with": _recipes(small),
    "CIFAR": _recipes(cifar),
    "CIFAR, transformers": _recipes(cifar_vits),
    "Tiny-ImageNet": _recipes(tiny_imagenet),
    "fine-grained": _recipes(finegrained),
    "ImageNet": _recipes(imagenet),
    "transformers, attention and label weights": attention.RECIPES,
}
RECIPES: dict[str, Recipe] = {recipe.__name__: recipe for family in FAMILIES.values() for recipe in family}
