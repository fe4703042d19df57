"""Policies and plans against their slow references, pixel by pixel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import mixwell as mw
import reference
import slow_plans
from cases import NOISE, Case, fixed_classifier
from catalogue import LEARNED, POLICIES
from mixwell import Batch, Pairs
from plans import PLANS, same_pixels

SHAPES = [(3, 2, 9, 14), (4, 1, 8, 8), (2, 3, 12, 6), (1, 1, 1, 3)]
DTYPES = [torch.float32, torch.uint8]
PAIRED = [policy for policy in POLICIES if isinstance(policy, mw.Policy)]


class Recording(Batch):
    """Remembers what was drawn."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.numbers: list[Tensor] = []

    def rand(self, *shape: int) -> Tensor:
        """Draw and remember uniform numbers."""
        self.numbers.append(super().rand(*shape))
        return self.numbers[-1]

    def randn(self, *shape: int) -> Tensor:
        """Draw and remember normal numbers."""
        self.numbers.append(super().randn(*shape))
        return self.numbers[-1]


def check(plan: mw.Plan, images: Tensor, expected: slow_plans.Mixed, far: float = 1e-6) -> None:
    """Compare all that a plan says and does."""
    torch.testing.assert_close(plan.share((images.shape[2], images.shape[3])), expected.share, rtol=0, atol=far)
    torch.testing.assert_close(plan.weights, expected.weights, rtol=0, atol=far)
    torch.testing.assert_close(plan.lam, expected.lam, rtol=0, atol=far)
    mixed = plan.apply(images).double()
    if same_pixels(plan):
        assert mixed.equal(expected.images)
    else:  # bytes are rounded to the nearest
        torch.testing.assert_close(
            mixed, expected.images, rtol=0, atol=0.501 + 200 * far if images.dtype == torch.uint8 else 10 * far
        )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("policy", PAIRED, ids=repr)
def test_policy_equals_reference(policy: mw.Policy, shape: Any, dtype: torch.dtype, seed: int) -> None:
    """Given partners, ratios, numbers and maps, a policy does what its publication says."""
    b, _, height, width = shape
    if isinstance(policy, mw.SnapMix | mw.SuperMix):
        policy = replace(policy, alpha=mw.Constant(0.4))  # further ratios; the first is given
    images = Case(shape, dtype, "contiguous").images(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {"model": fixed_classifier(), "normalization": mw.Normalization(0.0, 1.0)}
    batch = Recording(images, torch.arange(b) % 3, generator=generator, **given)
    partner = torch.randperm(b)
    lam = torch.rand(1 if policy.scope == "batch" else b)
    lam[-1] = {0: 0.0, 1: 1.0}.get(seed, lam[-1])
    maps = torch.rand(b, max(1, height - 2), (width + 1) // 2) + 0.01
    batch.saliency = policy._prepared(maps, batch)
    once = torch.minimum(torch.arange(b), partner) if policy.scope == "pair" else None
    pairs = Pairs(partner, lam, (height, width), batch=batch, once=once)
    gridded = mw.GridMix | mw.GridMixup | mw.AttentiveMix | mw.PuzzleMix | mw.MaskMix | mw.TokenMix | mw.SMMix
    gridded |= mw.SaliencyGrafting
    if min(height, width) < 6 and isinstance(policy, gridded):
        pytest.skip("has more cells than the image has pixels")
    plan = policy.plan(pairs)
    rows = torch.arange(b) if once is None else once
    numbers = [draw.expand(b, *draw.shape[1:])[rows].tolist() for draw in batch.numbers]
    sources = torch.stack((torch.arange(b), partner), 1).tolist()
    drawn = slow_plans.Drawn(images, sources, lam.expand(b).tolist(), numbers, maps.tolist())
    expected = reference.REFERENCES[type(policy)](policy, drawn)
    check(plan, images, expected, 1e-3 if getattr(policy, "fit", False) or isinstance(policy, mw.SuperMix) else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PLANS)
def test_plan_equals_reference(name: str, shape: Any, dtype: torch.dtype) -> None:
    """A plan of any kind does what it says."""
    images = Case(shape, dtype, "contiguous").images()
    plan = PLANS[name](images)
    expected = slow_plans.of_plan(plan, images)
    labelled_otherwise = any(word in name for word in ("correct_lam", "SnapMix", "SaliencyGrafting", "SuperMix"))
    check(plan, images, expected._replace(weights=plan.weights) if labelled_otherwise else expected)


@pytest.mark.parametrize("policy", [p for p in POLICIES if isinstance(p, mw.OneOf) and p.scope == "sample"], ids=repr)
def test_choice_per_sample_equals_reference(policy: mw.OneOf) -> None:
    """Every sample has the image, weights, ratio and share of the policy that was chosen for it."""
    images = Case((16, 2, 9, 14), torch.float32, "contiguous").images()
    labels, model = torch.arange(16) % 7, fixed_classifier()
    given = {"model": model, "normalization": NOISE}
    plan = policy.draw(images, labels, generator=torch.Generator().manual_seed(4), **given)
    again = Batch(images, labels, generator=torch.Generator().manual_seed(4), **given)
    partner = policy.pairing(again)
    u = again.rand(16)
    shares = torch.tensor(policy.weights or [1.0] * len(policy.policies))
    choice = [int((each >= shares.cumsum(0) / shares.sum()).sum()) for each in u]
    each = [inner._draw(again, partner) for inner in policy.policies]
    assert plan.sources[:, 1].equal(partner)
    assert set(choice) == set(range(len(each)))
    slow = [slow_plans.of_plan(inner, images)._replace(weights=inner.weights) for inner in each]
    check(plan, images, slow_plans.chosen(slow, choice))


def test_nobody_is_missing() -> None:
    """Every policy that decides what goes where has a slow reference."""
    assert {cls.__name__ for cls in reference.REFERENCES} == {
        name for name in set(mw.names("policy")) - LEARNED if issubclass(getattr(mw, name), mw.Policy)
    }
