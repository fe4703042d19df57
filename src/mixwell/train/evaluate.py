"""Top-1 and top-5 accuracy, negative log-likelihood and calibration error, or mAP, over any number of processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import accelerate.utils
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell.metrics import calibration_sums, mean_average_precision, top_k_hits
from mixwell.train import build
from mixwell.train.accelerator import start, unbroken
from mixwell.train.checkpoint import load_weights, read_weights, stored_classes
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.dataset import DataSet, Split, match_classes
from mixwell.train.errors import RunError, check_memory
from mixwell.train.loader import ProcessInfo, bad_images, evaluation_loader
from mixwell.train.sharding import gathered


def score(logits: Tensor, labels: Tensor, bins: int = 10) -> Tensor:
    """Return the sums over a batch from which :func:`summarise` computes the measures. Sums of batches may be added.

    Args:
        logits: Shape ``(B, N)``.
        labels: Class indices, shape ``(B,)``.
        bins: Number of bins of confidence, see :func:`mixwell.metrics.calibration_sums`.

    Returns:
        Count, top-1 hits, top-5 hits, negative log-likelihood, then the sum of each bin; float64 where the device has
        it.
    """
    logits = logits.to(_precise(logits.device))
    hits = [top_k_hits(logits, labels, k).sum() for k in (1, 5)]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    sums = torch.stack([loss.new_tensor(len(labels)), *(hit.to(loss.dtype) for hit in hits), loss])
    return torch.cat([sums, calibration_sums(logits, labels, bins)])


def summarise(sums: Tensor) -> dict[str, float]:
    """Compute measures from the sums of :func:`score`.

    Returns:
        ``top1`` and ``top5`` in percent, ``loss`` (mean negative log-likelihood, nats) and ``ece`` (expected
        calibration error, 0 to 1).

    Example:
        >>> logits = torch.tensor([[0.0, 10.0], [10.0, 0.0]])
        >>> {name: round(value, 3) for name, value in summarise(score(logits, torch.tensor([1, 1]))).items()}
        {'top1': 50.0, 'top5': 100.0, 'loss': 5.0, 'ece': 0.5}
    """
    count, top1, top5, loss = sums[:4].tolist()
    gap = sums[4:].abs().sum().item()
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count, "ece": gap / count}


def _precise(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator, bins: int = 10
) -> dict[str, float]:
    """Measure a classifier in evaluation mode. Every process brings its own images, and each image counts once.

    Args:
        model: Returns logits ``(B, N)``.
        batches: Images, and class indices ``(B,)`` or 0 and 1 for several labels per image ``(B, N)``.
        accelerator: Adds up the sums of all processes.
        bins: Number of bins of the calibration error.

    Returns:
        What :func:`summarise` returns; for several labels per image ``map`` (mean average precision, percent) and
        ``loss`` (mean binary cross-entropy over classes, nats) instead.

    Raises:
        RunError: There are no images.
    """
    training = model.training
    model.eval()
    sums = torch.zeros(4 + bins, dtype=_precise(accelerator.device), device=accelerator.device)
    several: list[tuple[Tensor, Tensor]] = []
    with gathered(model):
        for images, labels in batches:
            with accelerator.autocast():
                logits = model(images)
            if labels.ndim == 2:  # average precision ranks all images, so it cannot be summed over batches
                several.append((logits.float().cpu(), labels.float().cpu()))
            else:
                sums += score(logits, labels, bins)
    model.train(training)
    everyone: list[tuple[Tensor, Tensor]] = accelerate.utils.gather_object(several)
    if everyone:
        logits, labels = (torch.cat(parts) for parts in zip(*everyone, strict=True))
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        return {"map": mean_average_precision(logits, labels).item(), "loss": loss.item()}
    total: Tensor = accelerator.reduce(sums, "sum")  # type: ignore[assignment]
    if not total[0]:
        raise RunError("there are no images to measure the classifier on")
    return summarise(total)


def stored(config: Config, run: Path, split: str) -> tuple[nn.Module, Split, DataSet]:
    """Return the classifier that a run has stored, the images of a split, labelled by its classes, and their data set.

    Raises:
        RunError: See :func:`evaluate_run`.
    """
    path = run / "model.safetensors"
    weights, classes = read_weights(path), stored_classes(path)
    data = load(config, only=split)
    images = match_classes(data.test, data.classes, classes)
    check_memory(min(config.batch_size, len(images)), config.evaluation_size)
    data = replace(data, classes=classes)
    model = build.classifier(replace(config, weights=""), data)
    load_weights(model, weights, path)
    return model, images, data


@unbroken(lambda: "start the evaluation again")
def evaluate_run(config: Config, run: Path, split: str = "test", bins: int = 10) -> dict[str, float]:
    """Measure the classifier that a run has stored.

    Only the split that is measured is read, and its classes are matched with those of the classifier by name.

    Args:
        config: The run's config.
        run: Its directory.
        split: ``"test"``, or ``"val"`` for the validation images.
        bins: Number of bins of the calibration error.

    Returns:
        What :func:`evaluate` returns, and ``images``.

    Raises:
        RunError: There is no model yet, it is damaged, or the data set is missing or has other classes.
    """
    accelerator = start(config)
    model, images, data = stored(config, run, split)
    process = ProcessInfo(accelerator.device, accelerator.process_index, accelerator.num_processes)
    bad = bad_images(config)
    batches = evaluation_loader(images, data, config, process, bad)
    measures = evaluate(model.to(accelerator.device), batches, accelerator, bins)
    skipped = len(set().union(*accelerate.utils.gather_object([set(bad.reasons)])))
    return {**measures, "images": len(images) - skipped}
