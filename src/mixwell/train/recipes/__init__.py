"""Recipes: a training on a data set with a network. A variant is a replaced field of the ``Config``, not a file.

``BASES`` has the settings of data set and network, ``TRAININGS`` those of policy and method. ``published.csv`` lists
which are combined, with the parameter alpha of the policy, and with the published accuracies. The name of a recipe is
that of both, such as ``cifar100_resnet18_cutmix_sumix``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mixwell.train.config import Config
from mixwell.train.recipes.bases import BASES as BASES
from mixwell.train.recipes.small import SMALL
from mixwell.train.recipes.trainings import OF_BASE
from mixwell.train.recipes.trainings import TRAININGS as TRAININGS


class Result(NamedTuple):
    """A published accuracy; no standard deviations are published.

    Attributes:
        epochs: Length of the training.
        top1: Accuracy (percent).
        source: Where it is published.
    """

    epochs: int
    top1: float
    source: str


@dataclass(frozen=True)
class Recipe:
    """A function that returns a ``Config``.

    Attributes:
        base: Data set and network, a name in ``BASES``.
        training: Policy and method, a name in ``TRAININGS``.
        alpha: Parameter of the policy's Beta distribution, where it has one.
        results: Published accuracies.
    """

    base: str
    training: str
    alpha: str
    results: tuple[Result, ...]

    def __call__(self) -> Config:
        """Return the settings."""
        name = f"{self.base}_{self.training}"
        changes = {**TRAININGS[self.training], **OF_BASE.get(name, {})}
        if "policy" in changes:
            changes["policy"] = changes["policy"].replace("{alpha}", self.alpha)
        return replace(BASES[self.base], recipe=name, **changes)


def _combined() -> dict[str, Recipe]:
    """Return the recipes that ``published.csv`` lists."""
    found: dict[str, Recipe] = {}
    with (Path(__file__).parent / "published.csv").open(encoding="utf-8", newline="") as file:
        for base, training, alpha, epochs, top1, source in list(csv.reader(file))[1:]:
            results = (Result(int(epochs), float(top1), source),) if top1 else ()
            recipe = found.setdefault(f"{base}_{training}", Recipe(base, training, alpha, ()))
            found[f"{base}_{training}"] = replace(recipe, results=recipe.results + results)
    return found


COMBINED = _combined()
RECIPES: dict[str, Callable[[], Config]] = {**{recipe.__name__: recipe for recipe in SMALL}, **COMBINED}
