"""What Protocol B measures of a trained network: accuracy, likelihood, calibration and one attack."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from few_images import Data, Split
from torch import Tensor, nn

import mixwell as mw

FGSM_IMAGES, FGSM_STEP = 2000, 8 / 255
BINS = 15


def autocast(precision: str) -> torch.autocast:
    """Return the context that runs convolutions in the wanted precision."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


@torch.no_grad()
def predict(model: nn.Module, images: Tensor, precision: str) -> Tensor:
    """Return logits, computed in the precision of training and returned as float32."""
    with autocast(precision):
        return torch.cat([model(part).float() for part in images.split(250)])


def attacked(model: nn.Module, split: Split, precision: str) -> Tensor:
    """Return logits after one step of the fast gradient sign method, within [0, 1]."""
    found = []
    for images, labels in zip(split.images.split(250), split.labels.split(250), strict=True):
        images = images.clone().requires_grad_()
        with autocast(precision):
            loss = F.cross_entropy(model(images), labels)
        (slope,) = torch.autograd.grad(loss, images)
        found.append(predict(model, (images.detach() + FGSM_STEP * slope.sign()).clamp(0, 1), precision))
    return torch.cat(found)


def temperature_of(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the least negative log-likelihood, found by golden-section search over 1/T."""
    low, high, golden = 0.01, 10.0, (math.sqrt(5) - 1) / 2
    for _ in range(60):  # the loss is convex in 1/T
        left, right = high - golden * (high - low), low + golden * (high - low)
        if F.cross_entropy(logits * left, labels) < F.cross_entropy(logits * right, labels):
            high = right
        else:
            low = left
    return 2 / (low + high)


def measured(name: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return top-1, top-5 (percent), NLL (nats) and ECE (0 to 1) under names that start with the split's."""
    return {
        f"{name}_top1": mw.top_k_accuracy(logits, labels).item(),
        f"{name}_top5": mw.top_k_accuracy(logits, labels, 5).item(),
        f"{name}_nll": F.cross_entropy(logits, labels).item(),
        f"{name}_ece": mw.expected_calibration_error(logits, labels, BINS).item(),
    }


def evaluate(model: nn.Module, data: Data, precision: str, tune: bool) -> dict[str, float]:
    """Measure a trained network; the test images are left alone while tuning."""
    held_out = predict(model, data.held_out.images, precision)
    train_logits = predict(model, data.train.images, precision)
    found = {
        "train_top1": mw.top_k_accuracy(train_logits, data.train.labels).item(),
        "train_loss": F.cross_entropy(train_logits, data.train.labels).item(),
        **measured("held_out", held_out, data.held_out.labels),
    }
    if tune:
        return found
    temperature = temperature_of(held_out, data.held_out.labels)
    logits = predict(model, data.test.images, precision)
    scaled_measures = measured("scaled", logits / temperature, data.test.labels)
    first = Split(data.test.images[:FGSM_IMAGES], data.test.labels[:FGSM_IMAGES])
    return {
        **found,
        **measured("test", logits, data.test.labels),
        "temperature": temperature,
        "scaled_nll": scaled_measures["scaled_nll"],
        "scaled_ece": scaled_measures["scaled_ece"],
        "fgsm_top1": mw.top_k_accuracy(attacked(model, first, precision), first.labels).item(),
    }
