"""Signals and volumes: the contract of every policy that can mix them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mixwell as mw
from catalogue import POLICIES

INTERVALS = mw.CutMix(box="inside", match_area=True)
SIGNALS = [
    mw.MixUp(),
    mw.MixUp(alpha=0.3, scope="sample"),
    INTERVALS,
    mw.CutMix(box="inside", match_area=True, scope="sample"),
    mw.FMix(),
    mw.NoMix(),
    mw.OneOf([mw.MixUp(), INTERVALS]),
    mw.Sometimes(INTERVALS, p=0.5),
]
SALIENT = [p for p in POLICIES if getattr(p, "uses_saliency", False)]
VOLUMES = [p for p in POLICIES if isinstance(p, mw.MixUp | mw.CutMix | mw.FMix | mw.ResizeMix | mw.GridMix)]
VOLUMES = [p for p in VOLUMES if getattr(p, "correct_lam", True)] + SIGNALS
SHAPES = [(5, 2, 37), (4, 1, 64), (1, 3, 9)]
VOLUME_SHAPES = [(5, 2, 4, 12, 9), (3, 1, 6, 8, 8)]
CASES = [(p, s) for p in SIGNALS for s in SHAPES] + [(p, s) for p in VOLUMES for s in VOLUME_SHAPES]


def shares(mixed: mw.MixedBatch, inputs: Tensor) -> Tensor:
    """Return every source's share of every element, shape ``(B, K, 1, *space)``."""
    share = mixed.plan.share(mixed.plan.size)[:, :, None]
    return share[:, :, :, 0] if inputs.dim() == 3 else share[:, :, :, None]


@pytest.mark.parametrize(("policy", "shape"), CASES, ids=repr)
def test_contract(policy: mw.BatchPolicy, shape: tuple[int, ...]) -> None:
    """Shape, dtype and hull, weights that equal the mean share, sources that are not written, and equal seeds."""
    for dtype in (torch.float32, torch.bfloat16, torch.uint8):
        inputs = (255 * torch.rand(shape)).to(dtype)
        labels, kept = torch.arange(len(inputs)), inputs.clone()
        mix = mw.AnyShape(policy)
        mixed = mix(inputs, labels, generator=torch.Generator().manual_seed(3))
        again = mix(inputs, labels, generator=torch.Generator().manual_seed(3))
        assert torch.equal(mixed.images, again.images) and torch.equal(inputs, kept)
        assert mixed.images.shape == inputs.shape and mixed.images.dtype == dtype
        torch.testing.assert_close(mixed.weights.sum(1), torch.ones(len(inputs)))
        share = shares(mixed, inputs)
        torch.testing.assert_close(share.flatten(2).mean(2), mixed.weights, atol=1e-5, rtol=0)
        if not mixed.plan.moves_pixels:
            expected = (inputs[mixed.plan.sources].float() * share).sum(1)
            torch.testing.assert_close(
                mixed.images.float(), expected, atol=1.0 if dtype != torch.float32 else 1e-3, rtol=0
            )


def test_intervals() -> None:
    """CutMix pastes one interval, whose length is the partner's ratio within half an element."""
    signal = torch.tensor([[[0.0] * 50], [[1.0] * 50]])
    for _ in range(50):
        mixed = mw.AnyShape(mw.CutMix(box="inside", match_area=True, pairing=mw.Roll()))(signal, torch.arange(2))
        pasted = mixed.images[0, 0]
        changes = int(pasted.diff().abs().sum())
        assert changes <= 2 and float(pasted.mean()) == pytest.approx(float(mixed.weights[0, 1]), abs=1e-6)
        assert abs(float(pasted.mean()) - (1 - float(mixed.plan.lam[0]))) <= 0.5 / 50 + 1e-6


@pytest.mark.parametrize("policy", SALIENT, ids=repr)
def test_salient_policies_are_refused(policy: mw.BatchPolicy) -> None:
    """One sentence, also inside a composition."""
    for given in (policy, mw.OneOf([mw.MixUp(), policy])):
        with pytest.raises(ValueError, match="looks for salient regions"):
            mw.AnyShape(given)(torch.rand(2, 1, 4, 8, 8), torch.arange(2))


def test_what_cannot_be_mixed() -> None:
    """Errors name what to use."""
    with pytest.raises(ValueError, match="use MixUp"):
        mw.AnyShape(mw.ResizeMix())(torch.rand(2, 1, 8), torch.arange(2))
    with pytest.raises(ValueError, match="match_area=True"):
        mw.AnyShape(mw.Sometimes(mw.CutMix()))(torch.rand(2, 1, 8), torch.arange(2))
    with pytest.raises(ValueError, match=r"but got \(2, 8\)"):
        mw.AnyShape(mw.MixUp())(torch.rand(2, 8), torch.arange(2))
    with pytest.raises(TypeError, match="policy must be an object"):
        mw.AnyShape(mw.CutMix)  # type: ignore[arg-type]


def test_images_and_methods() -> None:
    """Images are mixed by the policy itself, and a method takes it as its policy."""
    images, labels = torch.rand(4, 3, 8, 8), torch.arange(4)
    torch.manual_seed(0)
    expected = mw.CutMix()(images, labels)
    torch.manual_seed(0)
    assert torch.equal(mw.AnyShape(mw.CutMix())(images, labels).images, expected.images)
    model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.AdaptiveAvgPool1d(1), torch.nn.Flatten())
    method = mw.Mixing(model, mw.AnyShape(INTERVALS))  # type: ignore[arg-type]  # any callable is a policy
    method(torch.rand(4, 2, 30), labels)["loss"].backward()
    assert model[0].weight.grad is not None
