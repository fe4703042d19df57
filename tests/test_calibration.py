"""Calibration and selective prediction against torchmetrics, scikit-learn and brute force; ties and NaN included."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixwell.evaluation import calibration, selective
from mixwell.metrics import (
    expected_calibration_error,
    mean_average_precision,
    negative_log_likelihood,
    top_k_accuracy,
    top_k_hits,
)

CLOSE = {"abs": 1e-6}


def cases() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for count, classes, tied in ((200, 10, False), (301, 5, True), (40, 2, True), (1, 3, False)):
        logits = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
        logits = logits.round() if tied else logits
        found.append((logits, torch.randint(classes, (count,), generator=generator)))
    return found


@pytest.mark.parametrize(("logits", "labels"), cases())
@pytest.mark.parametrize("bins", [10, 15])
def test_ece_and_reliability(logits: Tensor, labels: Tensor, bins: int) -> None:
    """ECE from the diagram, from a loop over images and from ``metrics`` are the same number."""
    p = logits.softmax(1)
    confidence, predicted = p.max(1)
    groups: dict[int, list[tuple[float, bool]]] = {}
    for one, right in zip(confidence.tolist(), (predicted == labels).tolist(), strict=True):
        edges = [k / bins for k in range(1, bins)]
        groups.setdefault(sum(one > edge for edge in edges), []).append((one, right))
    wanted = sum(abs(sum(c for c, _ in g) - sum(r for _, r in g)) for g in groups.values()) / len(labels)
    points = calibration.reliability(logits, labels, bins)
    gap = (points["accuracy"] - points["confidence"]).abs() * points["count"] / len(labels)
    assert gap.nansum().item() == pytest.approx(wanted, **CLOSE)
    assert expected_calibration_error(logits, labels, bins).item() == pytest.approx(wanted, **CLOSE)
    assert points["accuracy"].isnan().equal(points["count"] == 0)


@pytest.mark.parametrize("bins", [10, 15])
def test_ece_equals_torchmetrics(bins: int) -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    logits, labels = cases()[0]
    theirs = classification.multiclass_calibration_error(logits.softmax(1), labels, 10, n_bins=bins, norm="l1")
    assert expected_calibration_error(logits, labels, bins).item() == pytest.approx(theirs.item(), **CLOSE)


@pytest.mark.parametrize(("logits", "labels"), cases())
@pytest.mark.parametrize("bins", [1, 10, 15])
def test_adaptive_ece(logits: Tensor, labels: Tensor, bins: int) -> None:
    confidence, predicted = logits.softmax(1).max(1)
    confidence, right = confidence.numpy(), (predicted == labels).numpy().astype(float)
    shared = np.array([right[confidence == one].mean() for one in confidence])
    order = np.argsort(confidence)
    groups = np.array_split(order, bins)
    wanted = sum(abs(shared[g].sum() - confidence[g].sum()) for g in groups) / len(labels)
    ours = calibration.adaptive_calibration_error(logits, labels, bins).item()
    assert ours == pytest.approx(wanted, **CLOSE)
    again = torch.randperm(len(labels))
    shuffled = calibration.adaptive_calibration_error(logits[again], labels[again], bins).item()
    assert shuffled == pytest.approx(ours, **CLOSE)


@pytest.mark.parametrize(("logits", "labels"), cases())
def test_brier(logits: Tensor, labels: Tensor) -> None:
    p = logits.softmax(1)
    wanted = (p - F.one_hot(labels, p.shape[1])).square().sum(1).mean().item()
    assert calibration.brier_score(logits, labels).item() == pytest.approx(wanted, **CLOSE)
    metrics = pytest.importorskip("sklearn.metrics")
    if p.shape[1] == 2:
        theirs = metrics.brier_score_loss(labels.numpy(), p[:, 1].numpy(), pos_label=1)
        assert wanted == pytest.approx(2 * theirs, **CLOSE)


@pytest.mark.parametrize("scale", [0.2, 1.0, 7.0])
def test_temperature_is_the_best_on_a_grid(scale: float) -> None:
    """Labels drawn from the softmax of known logits: the temperature is found again, and none is better."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    found = calibration.fit_temperature(scale * logits, labels)
    assert found.item() == pytest.approx(scale, rel=0.05)
    best = F.cross_entropy(scale * logits / found, labels)
    for factor in (0.9, 0.999, 1.001, 1.1):
        assert F.cross_entropy(scale * logits / (factor * found), labels) > best


@pytest.mark.parametrize(("logits", "labels"), cases())
def test_aurc_is_the_mean_over_all_orders_of_ties(logits: Tensor, labels: Tensor) -> None:
    logits, labels = logits[:7].round(), labels[:7]
    scores = selective.max_probability(logits)
    hits = top_k_hits(logits, labels)
    areas = []
    for order in itertools.permutations(range(len(labels))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            wrong = [not hits[i] for i in order]
            areas.append(np.mean([np.mean(wrong[: k + 1]) for k in range(len(order))]))
    assert selective.aurc(scores, hits).item() == pytest.approx(np.mean(areas), **CLOSE)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("positive", "negative"), [(50, 70), (1, 1), (20, 3), (100, 100)])
def test_auroc_and_fpr95_equal_sklearn(positive: int, negative: int, tied: bool) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    inside, outside = torch.randn(positive) + 1, torch.randn(negative)
    if tied:
        inside, outside = inside.round(), outside.round()
    scores = torch.cat([inside, outside]).numpy()
    truth = np.array([1] * positive + [0] * negative)
    assert selective.auroc(inside, outside).item() == pytest.approx(metrics.roc_auc_score(truth, scores), **CLOSE)
    rates, recalls, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    wanted = rates[np.argmax(recalls >= 0.95 - 1e-12)]
    assert selective.false_positive_rate(inside, outside).item() == pytest.approx(wanted, **CLOSE)


def test_scores() -> None:
    logits = torch.tensor([[1.0, 2.0], [800.0, -800.0]])
    assert selective.max_probability(logits)[0].item() == pytest.approx(1 / (1 + math.exp(-1)), **CLOSE)
    assert selective.negative_energy(logits).tolist() == pytest.approx([math.log(math.exp(1) + math.exp(2)), 800.0])
    assert selective.negative_energy(logits, 2.0)[0].item() == pytest.approx(2 * math.log(math.exp(0.5) + math.e))


@pytest.mark.parametrize(("logits", "labels"), cases())
@pytest.mark.parametrize("k", [1, 5])
def test_top_k_and_nll(logits: Tensor, labels: Tensor, k: int) -> None:
    """Of equal logits the first class is the higher one; torchmetrics breaks ties of the highest in the same way."""
    classification = pytest.importorskip("torchmetrics.functional.classification")
    ranked = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :k]
    hits = (ranked == labels.numpy()[:, None]).any(1)
    assert top_k_accuracy(logits, labels, k).item() == pytest.approx(100 * hits.mean(), rel=1e-6)
    assert top_k_hits(logits, labels, k).numpy().tolist() == hits.tolist()
    if k == 1:
        theirs = classification.multiclass_accuracy(logits, labels, logits.shape[1], average="micro")
        assert hits.mean() == pytest.approx(theirs.item(), **CLOSE)
    wanted = np.mean([math.log(sum(math.exp(z - row[y]) for z in row))
                      for row, y in zip(logits.tolist(), labels.tolist(), strict=True)])  # fmt: skip
    assert negative_log_likelihood(logits, labels).item() == pytest.approx(wanted, **CLOSE)


@pytest.mark.parametrize(("logits", "labels"), cases())
def test_risk_coverage_equals_a_loop(logits: Tensor, labels: Tensor) -> None:
    """Each error counts with the mean error of all images of its confidence."""
    scores, hits = selective.max_probability(logits).tolist(), top_k_hits(logits, labels).tolist()
    errors = [np.mean([not h for s, h in zip(scores, hits, strict=True) if s == one]) for one in scores]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    wanted = [np.mean([errors[i] for i in order[: k + 1]]) for k in range(len(order))]
    found = selective.risk_coverage(torch.tensor(scores, dtype=torch.float64), torch.tensor(hits))
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_temperature_without_information_and_at_its_limits() -> None:
    labels = torch.tensor([0, 1])
    assert calibration.fit_temperature(torch.ones(2, 1000), labels).isfinite()
    assert calibration.fit_temperature(5 * torch.eye(2), labels).item() == pytest.approx(0.01, rel=1e-3)
    assert calibration.fit_temperature(5 * torch.eye(2), labels.flip(0)).item() == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_logits_never_look_good(bad: float) -> None:
    """A NaN among the logits is a wrong prediction, and every measure that needs the probabilities is NaN."""
    logits, labels = torch.tensor([[bad, 0.0], [0.0, 3.0], [2.0, 0.0]]), torch.tensor([0, 1, 0])
    nan = bad != bad
    if nan:
        assert top_k_accuracy(logits, labels).item() == pytest.approx(200 / 3)
        assert top_k_hits(logits, labels, 5).tolist() == [False, True, True]
    for measure in (
        expected_calibration_error, calibration.adaptive_calibration_error, calibration.brier_score,
        calibration.fit_temperature, negative_log_likelihood,
    ):  # fmt: skip
        assert measure(logits, labels).isnan()
    scores = selective.max_probability(logits)
    assert selective.aurc(scores, top_k_hits(logits, labels)).isnan()
    assert selective.auroc(scores, torch.zeros(2)).isnan()
    assert selective.false_positive_rate(torch.zeros(2), scores).isnan()
    assert not nan or selective.negative_energy(logits)[0].isnan()
    assert not nan or calibration.reliability(logits, labels)["confidence"].isnan().any()
    assert not nan or mean_average_precision(logits, torch.eye(3)[:, :2]).isnan()
    assert selective.auroc(torch.zeros(0), torch.zeros(2)).isnan()


def test_wrong_shapes_are_one_sentence() -> None:
    with pytest.raises(ValueError, match=r"logits must have shape \(B, N\)"):
        calibration.reliability(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="scores and hits must have the same shape"):
        selective.aurc(torch.zeros(3), torch.zeros(2))
