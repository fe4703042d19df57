"""Losses of all kinds treat every sample alone, and work under the transforms of torch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import mixwell as mw
from catalogue import LOSSES

B, N = 6, 7
ORDER = torch.tensor([3, 0, 5, 1, 4, 2])


def batch() -> tuple[Tensor, mw.MixedBatch]:
    torch.manual_seed(0)
    mixed = mw.CutMix(scope="sample")(torch.rand(B, 3, 8, 8), torch.randint(N, (B,)))
    return torch.randn(B, N), mixed


def rows(mixed: mw.MixedBatch, chosen: Tensor) -> mw.MixedBatch:
    return mw.MixedBatch(mixed.images[chosen], mixed.labels[chosen], mixed.weights[chosen], mixed.plan)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_permuting_the_batch_permutes_the_losses(loss: mw.Loss) -> None:
    logits, mixed = batch()
    each = [loss(logits[i : i + 1], rows(mixed, torch.tensor([i]))) for i in range(B)]
    alone = torch.stack(each)
    torch.testing.assert_close(loss(logits, mixed), alone.mean())
    permuted = rows(mixed, ORDER)
    torch.testing.assert_close(loss(logits[ORDER], permuted), alone.mean())
    for some in (slice(0, 2), slice(2, 6)):
        part = rows(permuted, torch.arange(B)[some])
        torch.testing.assert_close(loss(logits[ORDER][some], part), alone[ORDER][some].mean())


@pytest.mark.parametrize("function", [mw.cross_entropy, mw.binary_cross_entropy])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_losses_of_samples(function: Callable[..., Tensor], smoothing: float) -> None:
    """The same for reduction="none"."""
    logits, mixed = batch()
    each = function(logits, mixed, smoothing, "none")
    torch.testing.assert_close(function(logits[ORDER], rows(mixed, ORDER), smoothing, "none"), each[ORDER])
    assert each.shape == (B,) and len(each.unique()) == B


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, in jvp
@pytest.mark.parametrize("loss", [*LOSSES, mw.CrossEntropy(ignore_index=1)], ids=repr)
def test_transforms(loss: mw.Loss) -> None:
    """torch.func.grad, vmap, jvp and hessian, and forward mode, agree with autograd."""
    logits, mixed = batch()
    learned = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(learned, mixed), learned)

    def of(z: Tensor) -> Tensor:
        return loss(z, mixed)

    torch.testing.assert_close(torch.func.grad(of)(logits), gradient)
    both = torch.stack((logits, 2 * logits))
    torch.testing.assert_close(torch.func.vmap(of)(both), torch.stack((of(logits), of(2 * logits))))
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(of))(both)[0], gradient)
    direction = torch.randn(B, N)
    slope = (gradient * direction).sum()
    torch.testing.assert_close(torch.func.jvp(of, (logits,), (direction,))[1], slope)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(of(forward_ad.make_dual(logits, direction)))
    torch.testing.assert_close(dual.tangent, slope)
    assert torch.func.hessian(of)(logits).isfinite().all()
