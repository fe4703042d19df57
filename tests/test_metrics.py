"""Metrics against plain loops, torchmetrics and the published numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from mixwell.metrics import (
    calibration_sums,
    expected_calibration_error,
    mean_average_precision,
    mixed_accuracy,
    negative_log_likelihood,
    ranked_accuracy,
    top_k_accuracy,
    top_k_hits,
)


def batch(b: int, k: int, n: int, device: torch.device) -> tuple[Tensor, SimpleNamespace]:
    """Return logits and a mixed batch with random labels and weights."""
    weights = torch.rand(b, k, device=device)
    mixed = SimpleNamespace(
        labels=torch.randint(0, n, (b, k), device=device), weights=weights / weights.sum(1)[:, None]
    )
    return torch.randn(b, n, device=device), mixed


def dense(mixed: SimpleNamespace, n: int) -> SimpleNamespace:
    """Return the same batch with dense labels."""
    return SimpleNamespace(labels=torch.eye(n, device=mixed.labels.device)[mixed.labels], weights=mixed.weights)


def slow_ranked(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Rank the sources of every image by hand; of equal weights the later comes first."""
    total = 0.0
    for row, label, weight in zip(logits.tolist(), labels.tolist(), weights.tolist(), strict=True):
        classes = sorted(range(len(row)), key=lambda c: -row[c])
        sources = sorted(range(len(weight)), key=lambda s: (-weight[s], -s))
        total += sum(weight[s] for rank, s in enumerate(sources) if rank < len(row) and classes[rank] == label[s])
    return 100 * total / len(logits)


@pytest.mark.parametrize(("b", "k", "n"), [(1, 2, 5), (30, 2, 4), (30, 3, 4), (20, 4, 3), (7, 1, 2)])
def test_mixed_accuracies_equal_loops(b: int, k: int, n: int, device: torch.device) -> None:
    """Any number of sources, equal labels, fewer classes than sources, dense labels."""
    logits, mixed = batch(b, k, n, device)
    weighted = 0.0
    for row, label, weight in zip(logits.tolist(), mixed.labels.tolist(), mixed.weights.tolist(), strict=True):
        weighted += sum(w for w, c in zip(weight, label, strict=True) if c == row.index(max(row)))
    for one in (mixed, dense(mixed, n)):
        assert mixed_accuracy(logits, one).item() == pytest.approx(100 * weighted / b, abs=1e-3)
        assert ranked_accuracy(logits, one).item() == pytest.approx(
            slow_ranked(logits, mixed.labels, mixed.weights), abs=1e-3
        )


def test_equal_weights(device: torch.device) -> None:
    """At one half the later source is the dominant one."""
    logits = torch.tensor([[3.0, 2.0, 1.0]], device=device)
    for labels, expected in (([1, 0], 100.0), ([0, 1], 0.0), ([2, 0], 50.0)):
        mixed = SimpleNamespace(labels=torch.tensor([labels], device=device), weights=torch.full((1, 2), 0.5))
        mixed.weights = mixed.weights.to(device)
        for order in ("sample", "batch"):
            assert ranked_accuracy(logits, mixed, order).item() == expected


def test_ranked_accuracy_by_batch(device: torch.device) -> None:
    """With one ratio for all images both orders agree; with several, the batch order uses their mean alone."""
    logits, mixed = batch(40, 2, 4, device)
    mean = mixed.weights.mean(0)
    one = SimpleNamespace(labels=mixed.labels, weights=mean.expand(40, 2))
    assert ranked_accuracy(logits, mixed, "batch").item() == pytest.approx(
        ranked_accuracy(logits, one).item(), abs=1e-3
    )
    assert ranked_accuracy(logits, mixed, "batch").item() != pytest.approx(
        ranked_accuracy(logits, mixed).item(), abs=0.1
    )


@pytest.mark.parametrize("k", [2, 3, 4])
def test_ranked_accuracy_as_given(k: int, device: torch.device) -> None:
    """Label i at rank i; the last label at any rank from its own to the third."""
    logits, mixed = batch(50, k, 5, device)
    ranking = logits.argsort(1, descending=True).tolist()
    weights, expected = mixed.weights.mean(0).tolist(), 0.0
    for classes, labels in zip(ranking, mixed.labels.tolist(), strict=True):
        for i, label in enumerate(labels):
            allowed = classes[i : max(i + 1, 3)] if i == k - 1 else [classes[i]]
            expected += weights[i] * (label in allowed) * 2
    assert ranked_accuracy(logits, mixed, "given").item() == pytest.approx(expected, abs=1e-3)


def test_golden(shared: Path) -> None:
    """The published mixup accuracies."""
    load_file = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").load_file
    path = shared / "golden" / "vectors" / "public" / "accuracy_mixup.json"
    tensors = load_file(path.with_suffix(".safetensors"))
    for name in (case["id"] for case in json.loads(path.read_text())["cases"]):
        logits, lam = tensors[f"{name}.in.logits"], tensors[f"{name}.draw.lam"].double()
        if name.startswith("co"):
            mixed = SimpleNamespace(labels=tensors[f"{name}.in.labels"].T, weights=lam.expand(len(logits), -1))
        else:
            labels = torch.stack([tensors[f"{name}.in.y_a"], tensors[f"{name}.in.y_b"]], 1)
            mixed = SimpleNamespace(labels=labels, weights=torch.stack([lam, 1 - lam], -1).expand(len(logits), 2))
            assert mixed_accuracy(logits, mixed).item() == pytest.approx(
                tensors[f"{name}.out.acc_top1"].item(), abs=1e-4
            )
        order = {"per_sample": "batch", "co_three": "given"}.get(name, "sample")
        assert ranked_accuracy(logits, mixed, order).item() == pytest.approx(
            tensors[f"{name}.out.acc"].item(), abs=1e-4
        )


@pytest.mark.parametrize("k", [1, 2, 5, 99])
def test_top_k(k: int, device: torch.device) -> None:
    """Counted by sorting; with more than there are classes every image counts."""
    logits, labels = torch.randn(50, 6, device=device), torch.randint(0, 6, (50,), device=device)
    hits = sum(
        y in sorted(range(6), key=lambda c: -x[c])[:k] for x, y in zip(logits.tolist(), labels.tolist(), strict=True)
    )
    assert top_k_accuracy(logits, labels, k).item() == pytest.approx(2 * hits)


def slow_calibration(probabilities: Tensor, labels: Tensor, bins: int) -> float:
    """Sort images into bins (a, b] one by one."""
    piles: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        place = next(b for b in range(bins) if confidence <= torch.tensor((b + 1) / bins).item() or b == bins - 1)
        piles[place].append((confidence, row.index(confidence) == label))
    gaps = [abs(sum(hit for _, hit in pile) - sum(c for c, _ in pile)) for pile in piles if pile]
    return sum(gaps) / len(labels)


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("sharpness", [0.1, 2.0, 20.0])
def test_calibration(bins: int, sharpness: float, device: torch.device) -> None:
    """Equal to a loop; logits and probabilities give the same."""
    logits = torch.randn(200, 5, device=device) * sharpness
    labels = torch.randint(0, 5, (200,), device=device)
    found = expected_calibration_error(logits, labels, bins).item()
    assert found == pytest.approx(slow_calibration(logits.softmax(1), labels, bins), abs=1e-5)
    assert expected_calibration_error(logits.softmax(1), labels, bins, probabilities=True).item() == found


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_equals_torchmetrics(bins: int) -> None:
    """Another library's number."""
    peer = pytest.importorskip("torchmetrics.functional.classification", reason="torchmetrics is not installed")
    logits, labels = torch.randn(200, 5), torch.randint(0, 5, (200,))
    expected = peer.multiclass_calibration_error(logits.softmax(1), labels, 5, n_bins=bins).item()
    assert expected_calibration_error(logits, labels, bins).item() == pytest.approx(expected, abs=1e-5)


def test_calibration_bins_are_closed_above(device: torch.device) -> None:
    """A confidence on an edge belongs to the bin below it, and zero to the first."""
    rows = torch.tensor([[0.3, 0.1], [0.25, 0.1], [0.6, 0.1], [0.0, 0.0]], device=device)
    labels = torch.tensor([0, 1, 0, 1], device=device)
    # (0.2, 0.3] holds the first two: |1 - 0.55|; (0.5, 0.6] the third: |1 - 0.6|; the fourth differs by nothing.
    found = expected_calibration_error(rows, labels, probabilities=True).item()
    assert found == pytest.approx((0.45 + 0.4) / 4)


def test_likelihood(device: torch.device) -> None:
    """The mean of minus log softmax, in float32 whatever the logits are."""
    logits, labels = torch.randn(20, 4, device=device), torch.randint(0, 4, (20,), device=device)
    rows = zip(logits.tolist(), labels.tolist(), strict=True)
    expected = sum(math.log(sum(map(math.exp, row))) - row[y] for row, y in rows) / 20
    assert negative_log_likelihood(logits, labels).item() == pytest.approx(expected, abs=1e-5)
    assert negative_log_likelihood(logits.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("metric", [top_k_accuracy, expected_calibration_error, negative_log_likelihood])
def test_wrong_shapes(metric) -> None:
    """Labels of another length are refused."""
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(3,\)"):
        metric(torch.rand(4, 3), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("levels", [3, 1000])
def test_average_precision_equals_scikit_learn(levels: int) -> None:
    """Also with many equal scores, and classes that no image has."""
    peer = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    for _ in range(20):
        scores, labels = torch.randint(levels, (17, 5)).float(), (torch.rand(17, 5) < 0.3).long()
        there = labels.sum(0) > 0
        expected = [peer.average_precision_score(labels[:, c], scores[:, c]) for c in range(5) if there[c]]
        assert mean_average_precision(scores, labels).item() == pytest.approx(100 * sum(expected) / len(expected))
    assert mean_average_precision(torch.zeros(3, 2), torch.zeros(3, 2)).isnan()
    with pytest.raises(ValueError, match=r"the same shape \(B, N\), got \(3, 2\) and \(3,\)"):
        mean_average_precision(torch.zeros(3, 2), torch.zeros(3))


def test_sums_of_batches_add_up() -> None:
    """Counts and calibration sums of parts give the measures of the whole."""
    logits, labels = 3 * torch.randn(60, 10, dtype=torch.float64), torch.randint(10, (60,))
    parts = list(zip(logits.split(7), labels.split(7), strict=True))
    hits = sum(int(top_k_hits(*part, k=3).sum()) for part in parts)
    assert 100 * hits / 60 == pytest.approx(top_k_accuracy(logits, labels, k=3).item())
    gap = torch.stack([calibration_sums(*part, bins=12) for part in parts]).sum(0).abs().sum() / 60
    torch.testing.assert_close(gap, expected_calibration_error(logits, labels, bins=12))
