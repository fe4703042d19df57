"""Labels that are numbers, several classes at once, or one class per pixel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

import mixwell as mw
from mixwell.batch import Batch


@pytest.mark.parametrize("sigma", [0.5, 2.0])
@pytest.mark.parametrize("width", [1, 3])
def test_partners_are_drawn_by_label_distance(sigma: float, width: int) -> None:
    """Frequencies agree with the kernel, written out for every pair of rows."""
    torch.manual_seed(0)
    labels = 2 * torch.randn(5, width)
    batch, counts, times = Batch(torch.rand(5, 1, 2, 2), labels), torch.zeros(5, 5), 6000
    for _ in range(times):
        counts[torch.arange(5), mw.LabelDistance(sigma)(batch)] += 1
    for i in range(5):
        kernel = [
            math.exp(-sum((float(a) - float(b)) ** 2 for a, b in zip(labels[i], labels[j], strict=True)) / 2 / sigma**2)
            for j in range(5)
        ]
        kernel[i] = 0.0
        expected = torch.tensor(kernel) / sum(kernel)
        torch.testing.assert_close(counts[i] / times, expected, atol=0.03, rtol=0)


def test_partners_far_away() -> None:
    """Where all others are too far for the kernel's numbers, the nearest one is the partner."""
    batch = Batch(torch.rand(4, 1, 2, 2), torch.tensor([[0.0], [1e3], [1.1e3], [5e3]]))
    assert mw.LabelDistance(1.0)(batch).tolist() == [1, 2, 1, 2]
    assert mw.LabelDistance()(Batch(torch.rand(1, 1, 2, 2), torch.rand(1, 1))).tolist() == [0]
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="sigma must be positive"):
            mw.LabelDistance(sigma)


def test_regression_learns() -> None:
    """C-Mixup: targets are the weighted labels, and a linear model finds the line."""
    torch.manual_seed(0)
    images = torch.rand(64, 1, 4, 4)
    labels = images.mean((1, 2, 3))[:, None] * 10
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
    policy = mw.MixUp(alpha=2.0, pairing=mw.LabelDistance(sigma=0.5))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        mixed = policy(images, labels)
        target = mixed.targets(1)
        expected = (mixed.weights[..., None] * labels[mixed.plan.sources]).sum(1)
        torch.testing.assert_close(target, expected)
        loss = F.mse_loss(model(mixed.images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert F.mse_loss(model(images), labels) < 0.05


def test_multiple_labels_and_dense_labels() -> None:
    """Binary cross entropy of multi-hot labels, and cross entropy of soft ones, written out."""
    torch.manual_seed(0)
    images, logits = torch.rand(6, 3, 8, 8), torch.randn(6, 5)
    hot = torch.randint(2, (6, 5)).float()
    mixed = mw.CutMix()(images, hot)
    target = sum(mixed.weights[:, k, None] * hot[mixed.plan.sources[:, k]] for k in range(2))
    expected = -(target * logits.sigmoid().log() + (1 - target) * (-logits).sigmoid().log()).mean()
    torch.testing.assert_close(mw.BinaryCrossEntropy()(logits, mixed), expected)
    soft = torch.rand(6, 5).softmax(1)
    mixed = mw.MixUp()(images, soft)
    target = sum(mixed.weights[:, k, None] * soft[mixed.plan.sources[:, k]] for k in range(2))
    torch.testing.assert_close(mw.cross_entropy(logits, mixed), -(target * logits.log_softmax(1)).sum(1).mean())
