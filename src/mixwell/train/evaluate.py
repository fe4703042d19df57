"""Top-1, top-5, negative log-likelihood and calibration error, over any number of processes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from mixwell.train import build
from mixwell.train.accelerator import start
from mixwell.train.checkpoint import load_weights
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.loader import Place, loaders


def score(logits: Tensor, labels: Tensor, bins: int = 10) -> Tensor:
    """Return sums over a batch from which ``summarise`` makes the measures; sums of batches may be added.

    Args:
        logits: Shape ``(B, N)``.
        labels: Class indices, shape ``(B,)``.
        bins: Equal intervals of confidence, each open below and closed above.

    Returns:
        Count, top-1 hits, top-5 hits, negative log-likelihood, then count, confidence and hits of every bin; float64
        where the device has it.
    """
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    logits = logits.to(dtype)
    confidence, first = logits.softmax(1).max(1)
    top5 = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    hit = (first == labels).to(dtype)
    place = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    sums = torch.zeros(3, bins, dtype=dtype, device=logits.device)
    sums = sums.index_add(1, place, torch.stack([torch.ones_like(hit), confidence, hit]))
    loss = F.cross_entropy(logits, labels, reduction="sum")
    return torch.cat([torch.stack([sums[0].sum(), hit.sum(), top5.sum().to(dtype), loss]), sums.flatten()])


def summarise(sums: Tensor) -> dict[str, float]:
    """Turn sums of ``score`` into measures.

    Returns:
        ``top1`` and ``top5`` in percent, ``loss`` (mean negative log-likelihood, nats) and ``ece`` (expected
        calibration error, 0 to 1: ``sum_b n_b / N * |accuracy_b - confidence_b|``).

    Source: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017.

    Example:
        >>> logits = torch.tensor([[0.0, 10.0], [10.0, 0.0]])
        >>> {name: round(value, 3) for name, value in summarise(score(logits, torch.tensor([1, 1]))).items()}
        {'top1': 50.0, 'top5': 100.0, 'loss': 5.0, 'ece': 0.5}
    """
    count, top1, top5, loss = sums[:4].tolist()
    _, confidence, hits = sums[4:].view(3, -1)
    gap = (hits - confidence).abs().sum().item()
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count, "ece": gap / count}


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], accelerator: Accelerator, bins: int = 10
) -> dict[str, float]:
    """Measure a classifier in evaluation mode; every process brings its own images, none of them twice.

    Only sums travel between processes, so no image has to be repeated to fill a last batch and none is counted twice.
    """
    training = model.training
    model.eval()
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    sums = torch.zeros(4 + 3 * bins, dtype=dtype, device=accelerator.device)
    for images, labels in batches:
        with accelerator.autocast():
            logits = model(images)
        sums += score(logits, labels, bins)
    model.train(training)
    return summarise(accelerator.reduce(sums, "sum"))  # type: ignore[arg-type]


def evaluate_run(config: Config, run: Path, split: str = "test", bins: int = 10) -> dict[str, float]:
    """Measure the classifier that a run has kept.

    Args:
        config: The run's config.
        run: Its directory.
        split: ``"test"``, or ``"val"`` for what was held out.
        bins: Intervals of the calibration error.

    Returns:
        What ``summarise`` returns, and ``images``.

    Raises:
        RunError: there is no model yet, or its data set is missing.
    """
    accelerator = start(config)
    data = load(config)
    model = build.classifier(replace(config, weights=""), data)
    load_weights(model, run / "model.safetensors")
    place = Place(accelerator.device, accelerator.process_index, accelerator.num_processes)
    _, val, test = loaders(config, data, place)
    batches = test if split == "test" else val
    measures = evaluate(model.to(accelerator.device), batches, accelerator, bins)
    return {**measures, "images": len(batches.split)}
