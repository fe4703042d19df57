"""The fast path of the cross entropy of mixed labels, against the formula written out in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import mixwell as mw


def dense(logits: torch.Tensor, mixed: mw.MixedBatch, smoothing: float) -> torch.Tensor:
    """Return torch's loss on dense targets."""
    return F.cross_entropy(logits, mixed.targets(logits.shape[1], smoothing).to(logits.dtype))


def batch(rows: int, classes: int, sources: int = 2) -> mw.MixedBatch:
    """Return labels and weights, some of them of equal classes, whose rows need not sum to one."""
    plan = mw.MixUp(scope="sample").draw(torch.rand(rows, 1, 2, 2), torch.zeros(rows, dtype=torch.int64))
    return mw.MixedBatch(torch.rand(rows, 1), torch.randint(classes, (rows, sources)), torch.rand(rows, sources), plan)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("rows", "classes", "sources"), [(1, 1, 2), (3, 2, 1), (16, 7, 2), (128, 1000, 3)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_equals_dense_targets(rows: int, classes: int, sources: int, smoothing: float, scale: float) -> None:
    """Loss and gradient within 1e-6, also where probabilities underflow, whatever is done with the loss afterwards."""
    mixed = batch(rows, classes, sources)
    logits = (scale * torch.randn(rows, classes)).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    loss, expected = mw.cross_entropy(logits, mixed, smoothing), dense(exact, mixed, smoothing)
    torch.testing.assert_close(loss.double(), expected, atol=1e-6, rtol=1e-6)
    (gradient,) = torch.autograd.grad(3 * loss, logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(3 * expected, exact)
    torch.testing.assert_close(gradient.double(), wanted, atol=1e-6, rtol=1e-6)
    assert torch.equal(torch.autograd.grad(3 * loss, logits)[0], gradient), "a second backward pass is the same"


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_second_derivatives(smoothing: float) -> None:
    """A penalty on the gradient has the derivatives that autograd finds for dense targets, in any memory layout."""
    mixed, logits = batch(5, 4), torch.randn(5, 4, requires_grad=True)
    mixed = mw.MixedBatch(mixed.images, mixed.labels.T.contiguous().T, mixed.weights.T.contiguous().T, mixed.plan)
    found = []
    for loss in (mw.cross_entropy(2 * logits, mixed, smoothing), dense(2 * logits, mixed, smoothing)):
        (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), logits)[0])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_other_ways_in() -> None:
    """Learned weights get gradients, torch.func works, half precision works, evaluation keeps nothing."""
    mixed, logits = batch(6, 5), torch.randn(6, 5)
    weights = mixed.weights.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mw.cross_entropy(logits, mixed.with_weights(weights)), weights)
    torch.testing.assert_close(gradient, -logits.log_softmax(1).gather(1, mixed.labels) / 6)
    by_func = torch.func.grad(lambda x: mw.cross_entropy(x, mixed))(logits)
    leaf = logits.clone().requires_grad_()
    torch.testing.assert_close(by_func, torch.autograd.grad(mw.cross_entropy(leaf, mixed), leaf)[0])
    half = logits.bfloat16().requires_grad_()
    loss = mw.cross_entropy(half, mixed)
    assert loss.dtype == torch.float32 and torch.autograd.grad(loss, half)[0].dtype == torch.bfloat16
    kept = logits.clone()
    with torch.no_grad():
        assert mw.cross_entropy(logits, mixed).grad_fn is None
    assert torch.equal(kept, logits)
