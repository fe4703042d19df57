"""Losses and targets against loops over samples and classes, torch's own losses and timm's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from labelled import B, N, batch, random_batch
from mixwell import (
    BinaryCrossEntropy,
    CrossEntropy,
    CutMix,
    FocalLoss,
    MixedBatch,
    NoMix,
    SoftTargets,
    ThresholdTargets,
    binary_cross_entropy,
    cross_entropy,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def dense_target(mixed: MixedBatch, smoothing: float) -> list[list[float]]:
    """Sum the sources' labels, one class and one source at a time."""
    rows = []
    for i in range(B):
        row = [0.0] * N
        for k in range(mixed.labels.shape[1]):
            weight = float(mixed.weights[i, k])
            for c in range(N):
                hot = float(mixed.labels[i, k, c]) if mixed.labels.dim() == 3 else float(mixed.labels[i, k] == c)
                row[c] += weight * ((1 - smoothing) * hot + smoothing / N)
        rows.append(row)
    return rows


def log_softmax(row: list[float]) -> list[float]:
    top = max(row)
    total = math.log(sum(math.exp(z - top) for z in row)) + top
    return [z - total for z in row]


def loop_cross_entropy(logits: Tensor, mixed: MixedBatch, smoothing: float) -> list[float]:
    targets = dense_target(mixed, smoothing)
    return [
        -sum(t * p for t, p in zip(target, log_softmax(row), strict=True))
        for target, row in zip(targets, logits.tolist(), strict=True)
    ]


@pytest.mark.parametrize("kind", ["index", "dense", "loose"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_cross_entropy_is_that_of_soft_targets(kind: str, smoothing: float, k: int) -> None:
    """A loop over sources and classes, and torch's loss on dense targets smoothed once, agree with the sparse form."""
    mixed, logits = random_batch(kind, k), torch.randn(B, N) * 4
    each = cross_entropy(logits, mixed, smoothing, "none")
    torch.testing.assert_close(each, torch.tensor(loop_cross_entropy(logits, mixed, smoothing)), **CLOSE)
    targets = mixed.targets(N, smoothing)
    torch.testing.assert_close(each, F.cross_entropy(logits, targets, reduction="none"), **CLOSE)
    torch.testing.assert_close(targets, torch.tensor(dense_target(mixed, smoothing)), **CLOSE)
    if kind != "loose":  # torch spreads mass 1 whatever the target's sum
        by_torch = F.cross_entropy(logits, mixed.targets(N), label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(each, by_torch, **CLOSE)
    torch.testing.assert_close(cross_entropy(logits, mixed, smoothing), each.mean())
    torch.testing.assert_close(cross_entropy(logits, mixed, smoothing, "sum"), each.sum())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_timm(smoothing: float) -> None:
    """Timm takes dense targets."""
    loss = pytest.importorskip("timm.loss").SoftTargetCrossEntropy()
    mixed, logits = random_batch("index"), torch.randn(B, N)
    torch.testing.assert_close(cross_entropy(logits, mixed, smoothing), loss(logits, mixed.targets(N, smoothing)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_logits_are_computed_in_float32(dtype: torch.dtype, kind: str, autocast: bool) -> None:
    """Only the logits are coarse; autocast does not make the weighting coarse too."""
    mixed, logits = random_batch(kind), (torch.randn(B, N) * 4).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        losses = [f(logits, mixed, 0.1, "none") for f in (cross_entropy, binary_cross_entropy)]
    assert all(loss.dtype == torch.float32 for loss in losses)
    torch.testing.assert_close(losses[0], cross_entropy(logits.float(), mixed, 0.1, "none"), rtol=0, atol=1e-6)
    if kind == "index" or not autocast:
        expected = binary_cross_entropy(logits.float(), mixed, 0.1, "none")
        torch.testing.assert_close(losses[1], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["index", "dense", "loose"])
def test_gradient_is_that_of_a_naive_form(kind: str) -> None:
    """The gradient of ``sum(-target * log(softmax))`` in float64; weights and labels get none."""
    mixed, logits = random_batch(kind), torch.randn(B, N, requires_grad=True)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, mixed, 0.1), logits)
    naive = logits.detach().double().requires_grad_()
    loss = -(
        torch.tensor(dense_target(mixed, 0.1), dtype=torch.float64) * naive.exp().div(naive.exp().sum(1)[:, None]).log()
    )
    (expected,) = torch.autograd.grad(loss.sum(1).mean(), naive)
    torch.testing.assert_close(gradient.double(), expected, **CLOSE)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_derivatives_with_any_memory_layout(smoothing: float) -> None:
    """First and second derivatives are those of dense targets, also when labels and weights are transposed views."""
    mixed = random_batch("indices", 3)
    mixed = MixedBatch(mixed.images, mixed.labels.T.contiguous().T, mixed.weights.T.contiguous().T, mixed.plan)
    assert not mixed.weights.is_contiguous() and not mixed.labels.is_contiguous()
    logits, along = torch.randn(B, N, requires_grad=True), torch.randn(B, N)
    found = []
    for loss in (cross_entropy(logits, mixed, smoothing), F.cross_entropy(logits, mixed.targets(N, smoothing))):
        (first,) = torch.autograd.grad(loss.square(), logits, create_graph=True)
        (again,) = torch.autograd.grad(loss.square(), logits, retain_graph=True)
        torch.testing.assert_close(again, first, **CLOSE)
        found.append((first, *torch.autograd.grad((first * along).sum(), logits)))
    torch.testing.assert_close(found[0], found[1], **CLOSE)


def test_every_sample_is_weighted_by_its_own_weights() -> None:
    """Exchanging the weights of two samples changes the loss, but not OpenMixup's, which knows their mean only."""
    labels, logits = torch.randint(N, (B, 2)), torch.randn(B, N)
    lam = torch.linspace(0.1, 0.9, B)
    mixed, exchanged = (batch(labels, torch.stack((w, 1 - w), 1)) for w in (lam, lam.flip(0)))
    assert (cross_entropy(logits, mixed) - cross_entropy(logits, exchanged)).abs() > 1e-2
    published = [cross_entropy(logits, m, published=True) for m in (mixed, exchanged)]
    torch.testing.assert_close(*published)
    by_source = [F.cross_entropy(logits, labels[:, k]) for k in range(2)]
    torch.testing.assert_close(published[0], by_source[0] * lam.mean() + by_source[1] * (1 - lam).mean())
    shared = batch(labels, torch.tensor([[0.3, 0.7]]).expand(B, -1))
    torch.testing.assert_close(cross_entropy(logits, shared, published=True), cross_entropy(logits, shared))


@pytest.mark.parametrize("size", [1e4, -1e4, 3e38])
def test_extreme_logits_stay_finite(size: float) -> None:
    """Also where a source carries no weight at all."""
    logits = torch.zeros(2, N)
    logits[:, 0] = size
    logits.requires_grad_()
    mixed = batch(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    loss = cross_entropy(logits, mixed) + binary_cross_entropy(logits, mixed)
    loss.backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and loss.isfinite()


def test_plain_images_cost_what_they_always_cost() -> None:
    """Without mixing, the loss is torch's own."""
    labels, logits = torch.randint(N, (B,)), torch.randn(B, N)
    mixed = NoMix()(torch.rand(B, 3, 4, 4), labels)
    expected = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, mixed, 0.1), expected)


def by_loop(
    logits: Tensor, mixed: MixedBatch, weight: list[float], gamma: float = 0.0, smoothing: float = 0.0
) -> float:
    """Add up class-weighted focal terms, one sample and one class at a time."""
    total = 0.0
    for target, row in zip(dense_target(mixed, smoothing), logits.tolist(), strict=True):
        for t, log_p, w in zip(target, log_softmax(row), weight, strict=True):
            total -= t * w * (1 - math.exp(log_p)) ** gamma * log_p
    return total / len(logits)


@pytest.mark.parametrize("kind", ["index", "dense"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights(kind: str, smoothing: float) -> None:
    """Weighted as torch weights soft targets: the mean is over the samples, whatever their classes weigh."""
    mixed, logits = random_batch(kind), torch.randn(B, N)
    weight = tuple(range(N))
    ours = CrossEntropy(smoothing=smoothing, weight=weight)(logits, mixed)
    expected = F.cross_entropy(logits, mixed.targets(N), torch.tensor(weight).float(), label_smoothing=smoothing)
    torch.testing.assert_close(ours, expected)
    assert ours.item() == pytest.approx(by_loop(logits, mixed, list(weight), smoothing=smoothing), rel=1e-5)
    torch.testing.assert_close(cross_entropy(logits, mixed, smoothing, weight=torch.tensor(weight)), ours)


@pytest.mark.parametrize("loss", [CrossEntropy, FocalLoss])
def test_class_weights_of_any_sequence(loss: type) -> None:
    """Lists, NumPy arrays and tensors are the same setting as a tuple; bad ones are refused."""
    for weight in ([1.0, 0.5], np.array([1, 0.5]), torch.tensor([1, 0.5])):
        assert repr(loss(weight=weight)) == repr(loss(weight=(1.0, 0.5)))
    for weight in (torch.tensor([1.0, -1.0]), np.array([1.0, math.nan])):
        with pytest.raises(ValueError, match="every entry of weight must be a finite number of at least 0"):
            loss(weight=weight)


@pytest.mark.parametrize("kind", ["index", "dense", "loose"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(kind: str, gamma: float) -> None:
    """A loop over samples and classes; with gamma 0 it is the cross entropy, and sure predictions cost nothing."""
    mixed, logits = random_batch(kind), torch.randn(B, N) * 3
    weight = [1.0 + c for c in range(N)]
    ours = FocalLoss(gamma=gamma, weight=tuple(weight))(logits, mixed)
    assert ours.item() == pytest.approx(by_loop(logits, mixed, weight, gamma), rel=1e-4)
    if not gamma:
        torch.testing.assert_close(ours, CrossEntropy(weight=tuple(weight))(logits, mixed))
    sure = torch.full((B, N), -1e4).scatter_(1, torch.zeros(B, 1, dtype=torch.int64), 1e4).requires_grad_()
    loss = FocalLoss(gamma=gamma)(sure, NoMix()(torch.rand(B, 3, 4, 4), torch.zeros(B, dtype=torch.int64)))
    loss.backward()
    assert loss.item() == 0 and sure.grad is not None and sure.grad.isfinite().all()


def test_focal_loss_of_two_classes_is_torchvisions() -> None:
    """With two classes the softmax of (z, 0) is the sigmoid of z."""
    focal = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
    z, labels = torch.randn(B), torch.randint(2, (B,))
    mixed = NoMix()(torch.rand(B, 3, 4, 4), labels)
    expected = focal(z, (labels == 1).float(), alpha=-1, gamma=2.0, reduction="mean")
    torch.testing.assert_close(FocalLoss()(torch.stack((torch.zeros(B), z), 1), mixed), expected)


@pytest.mark.parametrize("loss", [CrossEntropy, FocalLoss])
def test_ignored_labels(loss: type) -> None:
    """Ignored sources add nothing to loss or gradient, and the mean is over what is left, as torch's is."""
    logits = torch.randn(4, N)
    labels = torch.tensor([1, -100, 0, -100])
    mixed = NoMix()(torch.rand(4, 3, 4, 4), labels)
    settings = {"gamma": 0.0} if loss is FocalLoss else {"smoothing": 0.1}
    expected = F.cross_entropy(logits, labels, label_smoothing=settings.get("smoothing", 0.0))
    torch.testing.assert_close(loss(ignore_index=-100, **settings)(logits, mixed), expected)
    both = batch(torch.tensor([[1, -100], [-100, 2], [0, 1], [-100, -100]]), torch.tensor([[0.6, 0.4]]).expand(4, 2))
    log_p = logits.log_softmax(1)
    kept = 0.6 * log_p[0, 1] + 0.4 * log_p[1, 2] + 0.6 * log_p[2, 0] + 0.4 * log_p[2, 1]
    plain = {"gamma": 0.0} if loss is FocalLoss else {}
    torch.testing.assert_close(loss(ignore_index=-100, **plain)(logits, both), -kept / 2.0)
    nothing = batch(torch.full((4, 2), 7), torch.tensor([[0.6, 0.4]]).expand(4, 2))
    assert loss(ignore_index=7)(logits, nothing).item() == 0
    with pytest.raises(ValueError, match="labels must lie between"):
        loss()(logits, mixed)


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(smoothing=0.1), FocalLoss(), cross_entropy])
@pytest.mark.parametrize(
    "labels",
    [torch.tensor([[1.0, 1, 0, 0]] * B), torch.zeros(B, 4), torch.eye(4)[[0] * B] * 0.9],
    ids=["2", "0", "0.9"],
)
def test_softmax_losses_refuse_multi_label_rows(loss, labels: Tensor) -> None:
    """The sentence names the loss to use; rows of probabilities, also coarse ones, are accepted."""
    mixed = CutMix()(torch.rand(B, 3, 4, 4), labels)
    with pytest.raises(ValueError, match=r"rows sum to one, but got a row that sums to .* use BinaryCrossEntropy\(\)"):
        loss(torch.randn(B, 4), mixed)
    assert BinaryCrossEntropy()(torch.randn(B, 4), mixed).isfinite()
    coarse = torch.rand(B, 4).softmax(1).bfloat16()
    assert loss(torch.randn(B, 4), CutMix()(torch.rand(B, 3, 4, 4), coarse)).isfinite()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(weight=(1.0, -1.0)), "every entry of weight must be a finite number of at least 0"),
        (lambda: FocalLoss(weight=(1.0, math.nan)), "every entry of weight must be a finite number"),
        (lambda: FocalLoss(gamma=-1.0), "gamma must be a finite number of at least 0"),
        (lambda: CrossEntropy(smoothing=1.0), "smoothing must lie in"),
        (lambda: CrossEntropy(weight=(1.0,))(torch.zeros(B, N), random_batch("index")), "one number for each of"),
    ],
)
def test_bad_settings(make, message: str) -> None:
    """Wrong settings are refused when the loss is created, a wrong number of classes when it is called."""
    with pytest.raises(ValueError, match=message):
        make()


def loop_bce(logits: Tensor, target: list[list[float]], negative_weight: float, hot: list[list[float]]) -> Tensor:
    """Add up the binary losses class by class, with the logarithm written out."""
    rows = []
    for i, row in enumerate(logits.tolist()):
        terms = []
        for c, z in enumerate(row):
            log_yes, log_no = -math.log1p(math.exp(-z)), -math.log1p(math.exp(z))
            weight = 1.0 if hot[i][c] > 0 else negative_weight
            terms.append(-weight * (target[i][c] * log_yes + (1 - target[i][c]) * log_no))
        rows.append(terms)
    return torch.tensor(rows)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("negative_weight", [1.0, 0.25])
@pytest.mark.parametrize("kind", ["index", "dense"])
def test_binary_cross_entropy_is_a_sum_over_classes(smoothing: float, negative_weight: float, kind: str) -> None:
    """With every reduction; negatives are those classes that no source has, smoothed or not."""
    mixed, logits = random_batch(kind), torch.randn(B, N)
    each = loop_bce(logits, dense_target(mixed, smoothing), negative_weight, dense_target(mixed, 0.0))
    settings = {"negative_weight": negative_weight}
    for classes, row in (("mean", each.mean(1)), ("sum", each.sum(1))):
        got = [
            binary_cross_entropy(logits, mixed, smoothing, r, classes=classes, **settings)
            for r in ("none", "mean", "sum")
        ]
        for value, expected in zip(got, (row, row.mean(), row.sum()), strict=True):
            torch.testing.assert_close(value, expected, **CLOSE)


@pytest.mark.parametrize("threshold", [None, 0.2])
def test_binary_cross_entropy_equals_timm(threshold: float | None) -> None:
    """Timm takes dense targets, and makes them binary itself."""
    loss = pytest.importorskip("timm.loss").BinaryCrossEntropy(target_threshold=threshold)
    mixed, logits = random_batch("index", 2), torch.randn(B, N)
    targets = SoftTargets() if threshold is None else ThresholdTargets(threshold)
    torch.testing.assert_close(binary_cross_entropy(logits, mixed, targets=targets), loss(logits, mixed.targets(N)))
    summed = pytest.importorskip("timm.loss").BinaryCrossEntropy(target_threshold=threshold, sum_classes=True)
    got = binary_cross_entropy(logits, mixed, targets=targets, classes="sum")
    torch.testing.assert_close(got, summed(logits, mixed.targets(N)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_equals_timm_on_class_indices(smoothing: float) -> None:
    """Timm smooths class indices itself, in the same way."""
    loss = pytest.importorskip("timm.loss").BinaryCrossEntropy(smoothing=smoothing, target_threshold=None)
    labels, logits = torch.randint(N, (B,)), torch.randn(B, N)
    mixed = NoMix()(torch.rand(B, 1, 2, 2), labels)
    torch.testing.assert_close(binary_cross_entropy(logits, mixed, smoothing), loss(logits, labels))


def test_a_policy_feeds_the_loss() -> None:
    """End to end: the loss of a mixed batch is the weighted loss of its two labels."""
    images, labels, logits = torch.rand(B, 3, 16, 16), torch.randint(N, (B,)), torch.randn(B, N)
    mixed = CutMix(scope="sample")(images, labels)
    partner, lam = mixed.plan.sources[:, 1], mixed.plan.share((16, 16))[:, 0].mean((1, 2))
    pair = [F.cross_entropy(logits, y, reduction="none") for y in (labels, labels[partner])]
    torch.testing.assert_close(cross_entropy(logits, mixed), (lam * pair[0] + (1 - lam) * pair[1]).mean())


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy])
@pytest.mark.parametrize(
    ("logits", "settings", "error", "sentence"),
    [
        (torch.zeros(B, 4), {}, ValueError, "labels must lie between 0 and 3"),
        (torch.zeros(3, N), {}, ValueError, r"logits must have shape \(7, N\), but got \(3, 5\)"),
        (torch.zeros(B, N, 2), {}, ValueError, "logits must have shape"),
        ((torch.zeros(B, N),), {}, TypeError, "logits must be a tensor .* but got tuple"),
        (torch.zeros(B, N), {"smoothing": 1.0}, ValueError, r"smoothing must lie in \[0, 1\), but got 1.0"),
        (torch.zeros(B, N), {"smoothing": -0.1}, ValueError, "smoothing must lie"),
        (torch.zeros(B, N), {"reduction": "avg"}, ValueError, "reduction must be mean, sum or none, but got 'avg'"),
    ],
)
def test_wrong_input_is_refused(loss, logits, settings, error, sentence) -> None:
    """One sentence each."""
    labels = torch.full((B, 2), 4)
    with pytest.raises(error, match=sentence):
        loss(logits, batch(labels, torch.full((B, 2), 0.5)), **settings)


def test_wrong_class_reduction_is_refused() -> None:
    """One sentence."""
    with pytest.raises(ValueError, match="classes must be mean or sum, but got 'none'"):
        binary_cross_entropy(torch.zeros(B, N), random_batch("index"), classes="none")


@pytest.mark.parametrize("loss", [cross_entropy, binary_cross_entropy])
def test_losses_compile_as_one_graph(loss) -> None:
    """No branch on values, no host read."""
    mixed, logits = random_batch("index"), torch.randn(B, N)
    compiled = torch.compile(lambda z, y, w: loss(z, batch(y, w), 0.1), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, mixed.labels, mixed.weights), loss(logits, mixed, 0.1))
    torch.compiler.reset()
