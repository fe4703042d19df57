"""Decoupled cross entropy beside a loop over samples and classes."""

from __future__ import annotations

import math

import pytest
import torch

import mixwell as mw
from mixwell.losses.decoupled import DecoupledCrossEntropy, decoupled_terms
from mixwell.targets import PowerRescale


def batch(rows: int = 6, classes: int = 5, sources: int = 2) -> tuple[mw.MixedBatch, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.randint(classes, (rows, sources))
    labels[0] = 1  # sources of one class
    weights = torch.rand(rows, sources).softmax(1)
    plan = mw.NoMix().draw(torch.rand(rows, 3, 2, 2), torch.arange(rows))
    return mw.MixedBatch(torch.rand(rows, 3, 2, 2), labels, weights, plan), torch.randn(rows, classes)


def term(logits: list[float], own: int, labels: list[int]) -> float:
    others = {label for label in labels if label != own}
    if not others:
        return 0.0
    return math.log(sum(math.exp(z) for c, z in enumerate(logits) if c not in others)) - logits[own]


@pytest.mark.parametrize("sources", [2, 3])
def test_terms_by_loop(sources: int) -> None:
    mixed, logits = batch(sources=sources)
    wanted = [
        [term(z, own, labels) for own in labels]
        for z, labels in zip(logits.tolist(), mixed.labels.tolist(), strict=True)
    ]
    assert decoupled_terms(logits, mixed.labels) == pytest.approx(torch.tensor(wanted), abs=1e-5)


@pytest.mark.parametrize("keep", ["both", "less", "more"])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_loss_by_loop(keep: str, exponent: float) -> None:
    mixed, logits = batch()
    total = 0.0
    for z, labels, weights in zip(logits.tolist(), mixed.labels.tolist(), mixed.weights.tolist(), strict=True):
        normal = math.log(sum(map(math.exp, z)))
        total += sum(w * (normal - z[y]) for w, y in zip(weights, labels, strict=True))
        for k, (w, y) in enumerate(zip(weights, labels, strict=True)):
            smaller = (weights[0] < 0.5) == (k == 0)
            if keep == "both" or smaller == (keep == "less"):
                total += 0.3 * w**exponent * term(z, y, labels)
    loss = DecoupledCrossEntropy(eta=0.3, keep=keep, rescale=PowerRescale(exponent=exponent))
    assert float(loss(logits, mixed)) == pytest.approx(total / len(mixed), abs=1e-5)


def test_gradient_is_finite_and_samples_are_independent() -> None:
    mixed, logits = batch(8)
    logits = (50 * logits).requires_grad_()
    DecoupledCrossEntropy()(logits, mixed).backward()
    assert bool(logits.grad.isfinite().all())
    order = torch.randperm(8)
    assert decoupled_terms(logits[order], mixed.labels[order]).equal(decoupled_terms(logits, mixed.labels)[order])


def test_errors() -> None:
    mixed, logits = batch(sources=3)
    with pytest.raises(ValueError, match="keep must be one of both, less, more"):
        DecoupledCrossEntropy(keep="all")
    with pytest.raises(ValueError, match="needs two sources"):
        DecoupledCrossEntropy(keep="less")(logits, mixed)
    dense = mixed.with_weights(mixed.weights)
    dense.labels = torch.nn.functional.one_hot(mixed.labels, 5).float()
    with pytest.raises(ValueError, match="needs class indices"):
        DecoupledCrossEntropy()(logits, dense)
