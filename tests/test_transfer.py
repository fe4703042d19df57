"""Nearest neighbours and the linear probe against scikit-learn, and other data sets, channels and models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mixwell.evaluation.transfer import neighbour_scores


@pytest.mark.parametrize(("k", "classes"), [(1, 2), (5, 3), (20, 1000), (999, 4)])
def test_neighbours_equal_scikit_learn(k: int, classes: int) -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    torch.manual_seed(0)
    train, test = torch.randn(60, 8, dtype=torch.float64), torch.randn(1500, 8, dtype=torch.float64)
    labels = torch.randint(min(classes, 20), (60,)) * (classes // min(classes, 20))
    found = neighbour_scores(train, labels, test, classes, k)
    theirs = neighbors.KNeighborsClassifier(
        min(k, 60), weights=lambda distance: np.exp((1 - distance) / 0.07), metric="cosine"
    ).fit(train.numpy(), labels.numpy())
    wanted = np.zeros((1500, classes))
    wanted[:, theirs.classes_] = theirs.predict_proba(test.numpy())
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_equal_neighbours_count_in_order_and_nan_is_no_class() -> None:
    train, labels = torch.eye(3)[[0] * 6], torch.tensor([2, 0, 0, 1, 1, 1])
    assert neighbour_scores(train, labels, train[:1], 3, k=3)[0].tolist() == pytest.approx([2 / 3, 0, 1 / 3])
    bad = neighbour_scores(train, labels, torch.tensor([[math.nan, 0.0, 1.0], [1.0, 1.0, 1.0]]), 3, k=3)
    assert bad[0].isnan().any() and bad[1].isfinite().all()
    assert neighbour_scores(train, labels, torch.zeros(1, 3), 3, k=2).isfinite().all()
    train[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN or Inf"):
        neighbour_scores(train, labels, torch.ones(1, 3), 3)
    with pytest.raises(ValueError, match=r"must have shapes \(M, D\)"):
        neighbour_scores(torch.ones(6, 2), labels, torch.ones(1, 3), 3)


@pytest.mark.parametrize("classes", [2, 5])
def test_probe_equals_a_plain_logistic_regression(classes: int) -> None:
    """The same classes as gradient descent on the same loss; a constant feature does no harm."""
    pytest.importorskip("accelerate")
    from mixwell.train.suite_transfer import probe

    torch.manual_seed(1)
    labels = torch.arange(80) % classes
    train = torch.randn(80, 6) + torch.eye(6)[labels] * 2
    train[:, 5] = 3.0
    test = torch.randn(300, 6)
    test[:, 5] = 3.0
    scaled, other = ((part[:, :5].double() - train[:, :5].mean(0)) / train[:, :5].std(0, correction=0)
                     for part in (train, test))  # fmt: skip
    weight = torch.zeros(5, classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(scaled @ weight + bias, labels, reduction="sum")
        # Two classes have one vector of weights in scikit-learn, the difference of these two.
        penalty = (weight[:, 1] - weight[:, 0]).square().sum() / 2 if classes == 2 else weight.square().sum() / 2
        (value + penalty).backward()
        return value + penalty

    optimizer.step(loss)
    wanted = (other @ weight + bias).argmax(1)
    assert (probe(train, labels, test) == wanted).double().mean() > 0.99
