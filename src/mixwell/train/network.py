"""A classifier as it is used after training: from a run directory, a file of weights, or untrained by its name."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import mixwell as mw
from mixwell import models
from mixwell.features.isolation import undisturbed
from mixwell.features.observer import Observer
from mixwell.features.passes import logits_of
from mixwell.train.checkpoint import load_weights, read_weights, stored_classes, stored_normalization, without_prefix
from mixwell.train.errors import RunError, mistakes
from mixwell.train.runs import read_config

UNTRAINED_CLASSES = 1000
GREY = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Network:
    """A classifier on the CPU in evaluation mode, and how its images are prepared.

    Attributes:
        model: Returns logits ``(B, N)``.
        normalization: Of its images.
        size: Side of its images (pixels).
        channels: Channels of its images, 1 or 3.
        classes: Names of the classes; numbers if the file of weights has no names.
    """

    model: nn.Module
    normalization: mw.Normalization
    size: int
    channels: int = 3
    classes: list[str] = field(default_factory=list[str])

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return RGB pixels in [0, 1], shape ``(B, 3, H, W)``, as the model's input, shape ``(B, C, H, W)``."""
        if self.channels == 1:
            pixels = torch.einsum("bchw,c->bhw", pixels, pixels.new_tensor(GREY))[:, None]
        return self.normalization.normalize(pixels)

    @torch.no_grad()
    def predict(self, pixels: Tensor) -> Tensor:
        """Return the predicted class of RGB images in [0, 1], shape ``(B,)``, int64."""
        with undisturbed(self.model):
            return logits_of(self.model(self.inputs(pixels))).argmax(1)

    @torch.no_grad()
    def view(self, mixed: mw.MixedBatch, inputs: Tensor, labels: Tensor, needs: Iterable[str]) -> mw.View:
        """Run the model on unmixed and mixed images, and return what label policies can read.

        Args:
            mixed: The mixed images, normalized.
            inputs: The unmixed images, normalized.
            labels: Their labels.
            needs: Fields to read, see ``LabelPolicy.needs``; both kinds of logits are always there.

        Raises:
            ValueError: The model does not have one of the fields.
        """
        observer = Observer(self.model, frozenset(needs))
        with undisturbed(self.model):
            seen: dict[str, Any] = dict(observer.clean_pass(self.model, inputs))
            seen |= observer.mixed_pass(self.model, mixed.images)
        return mw.View(**seen, images=inputs, labels=labels, model=self.model, normalization=self.normalization)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`from_options` reads."""
    parser.add_argument("--model", default="", help="architecture of a file of weights, such as timm/NAME")
    parser.add_argument("--mean", type=float, help="mean of the normalization [of the run, or ImageNet's]")
    parser.add_argument("--std", type=float, default=1.0, help="standard deviation of the normalization")


def from_options(path: Path, options: argparse.Namespace, size: int | None, seed: int = 0) -> Network:
    """Load the classifier that a command line names; see :func:`add_options` and :func:`load`."""
    with mistakes():
        normalization = None if options.mean is None else mw.Normalization(options.mean, options.std)
        return load(path, options.model, normalization, size or 0, seed)


def load(
    path: Path | str, model: str = "", normalization: mw.Normalization | None = None, size: int = 0, seed: int = 0
) -> Network:
    """Load a classifier.

    Args:
        path: Run directory; file of weights; or an architecture, such as ``"timm/resnet50"``, with random weights.
        model: Architecture of a file of weights.
        normalization: Of its images; ``None`` means the one that a run stored with the weights, or ImageNet's.
        size: Side of its images (pixels); 0 means that of the run, or 224.
        seed: Seed of random weights.

    Raises:
        RunError: The run, file or architecture does not exist, or the weights do not fit the model.
    """
    path, classes = Path(path), list[str]()
    if path.is_dir():
        config, path = read_config(path), path / "model.safetensors"
        model, size = config.model, size or config.evaluation_size
        with contextlib.suppress(RunError):  # the file is from elsewhere
            classes = stored_classes(path)
    elif not path.is_file():
        return Network(_untrained(str(path), seed).eval(), normalization or mw.IMAGENET, size or 224)
    elif not model:
        raise RunError(f"{path} is not a run directory: name its architecture with --model timm/NAME")
    normalization = normalization or stored_normalization(path) or mw.IMAGENET
    weights = read_weights(path)
    count = _outputs(model, weights)
    built = models.build(model, count, 3)
    weights = without_prefix(weights, built.state_dict())
    first = next((name for name, value in built.state_dict().items() if value.dim() == 4), "")  # of the input layer
    channels = weights[first].shape[1] if first in weights and weights[first].dim() == 4 else 3
    built = built if channels == 3 else models.build(model, count, channels)
    load_weights(built, weights, path)
    names = classes or [str(number) for number in range(count)]
    return Network(built.eval().requires_grad_(False), normalization, size or 224, channels, names)


def _untrained(name: str, seed: int) -> nn.Module:
    if name.partition("(")[0] not in models.NAMES and not name.startswith("timm/"):
        raise RunError(
            f"{name} is neither a run directory nor a file of weights nor a network: one without training is named "
            f"as timm/NAME, or as one of {', '.join(models.NAMES)}"
        )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return models.build(name, UNTRAINED_CLASSES)


def _outputs(name: str, weights: Mapping[str, Tensor]) -> int:
    """Return the number of classes of the classifier in a file of weights."""
    try:
        head = mw.classifier_of(models.build(name, 2, 3))[0]
    except ValueError as error:
        raise RunError(str(error)) from None
    found = next((value for key, value in weights.items() if key.endswith(f"{head}.weight")), None)
    if found is None:
        raise RunError(f"the weights have no {head}.weight, the classifier of {name}: check --model")
    return len(found)
