"""Load a finished classifier for a command: from a run directory, from a file of weights, or untrained by its name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import mixwell as mw
from mixwell import models
from mixwell.train.checkpoint import load_weights, read_weights, without_prefix
from mixwell.train.errors import RunError, mistakes
from mixwell.train.runs import read_config

UNTRAINED_CLASSES = 1000


@dataclass(frozen=True)
class Network:
    """A classifier in evaluation mode.

    Attributes:
        model: The classifier.
        normalization: How its images are normalized.
        size: Side of its images (pixels).
    """

    model: nn.Module
    normalization: mw.Normalization
    size: int


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`load` reads."""
    parser.add_argument("--model", help="architecture of a file of weights, such as timm/NAME")
    parser.add_argument("--mean", type=float, help="mean of the normalization [of the run, or ImageNet's]")
    parser.add_argument("--std", type=float, default=1.0, help="standard deviation of the normalization")


def load(path: Path, options: argparse.Namespace, size: int | None = None, seed: int = 0) -> Network:
    """Return the classifier of a run directory or of a file of weights, or an untrained one.

    Args:
        path: Run directory; file of weights, whose architecture is ``options.model``; or an architecture, such as
            ``timm/NAME``, which gets random weights.
        options: See :func:`add_options`.
        size: Side of the images; None means that of the run, or 224.
        seed: Seed of random weights.

    Raises:
        RunError: The classifier cannot be read or does not exist.
    """
    known = mw.IMAGENET
    if path.is_dir():
        config = read_config(path)
        name, size = config.model, size or config.image_size
        known = mw.CIFAR10 if config.dataset.startswith("cifar") else known
        weights = path / "model.safetensors"
    elif path.is_file():
        if not options.model:
            raise RunError(f"{path} is not a run directory: name its architecture with --model timm/NAME")
        name, weights = options.model, path
    else:
        name, weights = _architecture(path), None
    with mistakes():
        normalization = known if options.mean is None else mw.Normalization(options.mean, options.std)
        model = _untrained(name, seed) if weights is None else _trained(name, weights)
    return Network(model.eval(), normalization, size or 224)


def _architecture(path: Path) -> str:
    name = str(path)
    if name.partition("(")[0] not in models.NAMES and not name.startswith("timm/"):
        raise RunError(
            f"{name} is neither a run directory nor a file of weights nor a network: one without training is named "
            f"as timm/NAME, or as one of {', '.join(models.NAMES)}"
        )
    return name


def _untrained(name: str, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return models.build(name, UNTRAINED_CLASSES)


def _trained(name: str, path: Path) -> nn.Module:
    weights = read_weights(path)
    model = models.build(name, _outputs(name, weights))
    load_weights(model, without_prefix(weights, model.state_dict()), path)
    return model


def _outputs(name: str, weights: Mapping[str, Tensor]) -> int:
    """Return the number of classes of the classifier in a file of weights."""
    head = mw.classifier_of(models.build(name, 2))[0]
    found = next((value for key, value in weights.items() if key.endswith(f"{head}.weight")), None)
    if found is None:
        raise RunError(f"the weights have no {head}.weight, the classifier of {name}: check --model")
    return len(found)
