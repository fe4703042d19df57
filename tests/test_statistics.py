"""The laws of what is drawn: ratios, pairs, boxes, fields, choices. Seeds are fixed: a test passes always or never."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mixwell as mw
from catalogue import RATIOS
from laws import LIMIT, N, blank, distance, law_of, seeded, uniform
from mixwell import Batch, Beta, Constant, CutMix, Folded, Ratio, Uniform

SMOOTH = [ratio for ratio in RATIOS if not isinstance(ratio, Constant)]
ALPHAS = [Beta(alpha) for alpha in (1e-4, 1e-3, 0.01, 0.1, 0.5, 1.5, 40.0, 100.0)]


@pytest.mark.parametrize("ratio", [*SMOOTH, *ALPHAS], ids=repr)
def test_ratios_follow_their_law(ratio: Ratio) -> None:
    """Draws are distributed as they should be, at small parameters too, and no draw is outside [0, 1]."""
    draws = ratio(N, generator=seeded(1))
    assert draws.shape == (N,) and draws.dtype == torch.float32
    assert bool(((draws >= 0) & (draws <= 1)).all())
    assert distance(draws, law_of(ratio)) < LIMIT
    assert draws.equal(ratio(N, generator=seeded(1)))


@pytest.mark.parametrize(("alpha", "beta"), [(1e-300, 1e-300), (1e300, 1e300), (1e-300, 1e300), (1e300, 1e-300)])
def test_the_smallest_and_largest_parameters(alpha: float, beta: float) -> None:
    """Draws do not overflow: their mean is alpha / (alpha + beta)."""
    draws = Beta(alpha, beta=beta)(1000, generator=seeded(1))
    assert draws.mean().item() == pytest.approx(alpha / (alpha + beta), abs=0.05)


@pytest.mark.parametrize("alpha", [1e-4, 1e-3, 0.01, 0.05, 0.0999, 0.1, 0.2, 1.0, 2.0, 30.0, 100.0])
@pytest.mark.parametrize("times", [1.0, 2.0, 100.0])
def test_beta_is_scipys(alpha: float, times: float) -> None:
    """Also where gamma variates underflow, which would pile up ratios at one half, and with unequal parameters."""
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    draws = Beta(alpha, beta=alpha * times)(100_000, generator=seeded(4)).double()
    theirs = stats.beta(alpha, alpha * times)
    for edge in (1e-30, 1e-10, 1e-3, 0.1, 0.3, 0.5 - 1e-6, 0.5 + 1e-6, 0.7, 0.9, 0.999):
        assert float((draws <= edge).double().mean()) == pytest.approx(theirs.cdf(edge), abs=0.006)
    folded = Folded(Beta(alpha))(100_000, generator=seeded(4)).double()
    expected = 2 * stats.beta(alpha, alpha).cdf(0.7) - 1
    assert float((folded <= 0.7).double().mean()) == pytest.approx(expected, abs=0.006)


def test_a_wrong_law_is_noticed() -> None:
    """The distance tells neighbouring laws apart."""
    assert distance(Beta(0.25)(N, generator=seeded(1)), law_of(Beta(0.2))) > LIMIT
    assert distance(Beta(2.0, beta=1.0)(N, generator=seeded(1)), law_of(Beta(1.0, beta=2.0))) > LIMIT


@pytest.mark.parametrize(
    ("policy", "law"),
    [
        (mw.MixUp(alpha=0.2, scope="sample"), Beta(0.2)),
        (CutMix(alpha=0.2, scope="sample"), Beta(0.2)),
        (CutMix(alpha=Uniform(0.3, 0.4), scope="sample"), Uniform(0.3, 0.4)),
        (mw.FMix(alpha=0.5, scope="sample"), Beta(0.5)),
        (mw.FMix(alpha=0.5, scope="sample", reformulated=True), Beta(1.5, beta=0.5)),
        (mw.SaliencyMix(alpha=2.0), Beta(2.0)),
    ],
    ids=repr,
)
def test_nominal_ratio(policy: mw.Policy, law: Ratio) -> None:
    """The ratio that a plan names is the drawn one."""
    images, labels = blank(N, 4, 4)
    plan = policy.draw(images, labels, saliency=images[:, 0], generator=seeded(2))
    assert distance(plan.lam, law_of(law)) < LIMIT


def test_nominal_ratio_of_areas() -> None:
    """ResizeMix draws a side, and CutMix between two shares draws both sides."""
    plan = mw.ResizeMix(scope="sample").draw(*blank(N, 50, 50), generator=seeded(3))
    assert distance((1 - plan.lam).sqrt(), law_of(Uniform(0.1, 0.8))) < LIMIT
    plan = CutMix(minmax=(0.2, 0.7), scope="sample").draw(*blank(N, 10_000, 5_000), generator=seeded(3))
    top, bottom, left, right = plan.boxes[:, 0].double().unbind(1)
    for side in ((bottom - top) / 10_000, (right - left) / 5_000):
        assert distance(side, law_of(Uniform(0.2, 0.7))) < LIMIT + 1e-3
    torch.testing.assert_close(plan.lam, plan.weights[:, 0])


@pytest.mark.parametrize("policy", [mw.MixUp, CutMix, mw.FMix, mw.ResizeMix, mw.SaliencyMix])
def test_scopes(policy: Callable[..., mw.Policy]) -> None:
    """Once per batch is one value, per pair the same for both, per sample another for nearly each."""
    images, labels = blank(32, 16, 16)
    maps = torch.rand(32, 16, 16)

    def draw(**settings: object) -> mw.Plan:
        return policy(**settings).draw(images, labels, saliency=maps, generator=seeded(4))

    plan = draw(scope="batch")
    assert len(plan.lam.unique()) == 1 and len(plan.share((16, 16)).unique(dim=0)) == 1
    plan = draw(scope="pair", pairing=mw.Reverse())
    assert plan.lam.equal(plan.lam.flip(0)) and len(plan.lam.unique()) == 16
    if policy is not mw.SaliencyMix:  # whose box lies around the partner's own peak
        assert plan.share((16, 16)).equal(plan.share((16, 16)).flip(0))
    plan = draw(scope="sample")
    assert len(plan.lam.unique()) == 32 and len(plan.share((16, 16)).unique(dim=0)) >= 16


def partners(pairing: mw.Pairing, rows: int, times: int) -> Tensor:
    """Draw partners many times, (times, rows)."""
    batch = Batch(*blank(rows, 1, 1), generator=seeded(13))
    return torch.stack([pairing(batch) for _ in range(times)])


@pytest.mark.parametrize("rows", [2, 3, 4, 7, 64])
def test_derangement(rows: int) -> None:
    """Nobody is alone, everybody is somebody's partner once, and all others are equally likely."""
    drawn = partners(mw.Derangement(), rows, 3000)
    assert not bool((drawn == torch.arange(rows)).any())
    assert bool((drawn.sort(1).values == torch.arange(rows)).all())
    if rows > 2:
        for row in (0, rows - 1):
            counts = drawn[:, row].bincount(minlength=rows)
            assert uniform(counts[torch.arange(rows) != row])


def test_permutation() -> None:
    """All permutations are equally likely; in 63 % of batches somebody is alone."""
    drawn = partners(mw.Permutation(), 4, 6000)
    assert uniform((drawn * 4 ** torch.arange(4)).sum(1).unique(return_counts=True)[1])
    alone = (partners(mw.Permutation(), 20, 6000) == torch.arange(20)).any(1).float().mean()
    assert abs(float(alone) - (1 - math.exp(-1))) < 0.02


def test_one_of() -> None:
    """Policies are chosen as often as their weights say, once per batch or for every sample."""
    kinds = [mw.MixUp(alpha=Constant(0.25)), mw.MixUp(alpha=Constant(0.5)), mw.NoMix(), mw.MixUp(alpha=Constant(0.75))]
    weights = torch.tensor([1.0, 3.0, 0.0, 2.0])
    lams = torch.tensor([0.25, 0.5, 1.0, 0.75])
    generator = seeded(14)
    policy = mw.OneOf(kinds, weights=weights.tolist())
    drawn = torch.stack([policy.draw(*blank(3, 2, 2), generator=generator).lam for _ in range(3000)])
    assert bool((drawn == drawn[:, :1]).all())
    per_sample = mw.OneOf(kinds, weights=weights.tolist(), scope="sample").draw(*blank(N, 2, 2), generator=generator)
    for lam in (drawn[:, 0], per_sample.lam):
        counts = (lam[:, None] == lams).sum(0)
        assert counts[2] == 0
        assert uniform(counts[weights > 0], weights[weights > 0])
    assert uniform(torch.stack([(per_sample.lam[::2] == 0.5).sum(), (per_sample.lam[1::2] == 0.5).sum()]))


def test_pairs_share_their_choice() -> None:
    """Chosen per pair, both images of a pair follow the same policy, and pairs differ."""
    kinds = [mw.MixUp(alpha=Constant(0.25)), mw.MixUp(alpha=Constant(0.5))]
    plan = mw.OneOf(kinds, scope="pair", pairing=mw.Reverse()).draw(*blank(200, 2, 2), generator=seeded(18))
    assert plan.lam.equal(plan.lam.flip(0))
    assert 30 < int((plan.lam[:100] == 0.5).sum()) < 70


def test_every_sample_is_of_its_kind() -> None:
    """Chosen per sample, a share is that of one policy and not of another, and its weight goes with it."""
    kinds = [mw.MixUp(alpha=Constant(0.4)), CutMix(alpha=Constant(0.75), box="inside"), mw.NoMix()]
    plan = mw.OneOf(kinds, scope="sample").draw(*blank(300, 8, 8), generator=seeded(15))
    share = plan.share((8, 8))[:, 0]
    blended = (share == share[:, :1, :1]).all((1, 2)) & (plan.lam < 0.5)
    pasted = ((share == 0) | (share == 1)).all((1, 2)) & (share.sum((1, 2)) == 48)
    kept = (share == 1).all((1, 2))
    assert bool((blended.int() + pasted.int() + kept.int() == 1).all())
    for is_kind, weight in ((blended, 0.4), (pasted, 0.75), (kept, 1.0)):
        assert 70 < int(is_kind.sum()) < 130
        torch.testing.assert_close(plan.weights[is_kind, 0], torch.full((int(is_kind.sum()),), weight))


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_sometimes(p: float) -> None:
    """Mixes as often as it says, whole batches or samples."""
    generator, inner = seeded(16), mw.MixUp(alpha=Constant(0.5))
    batches = [mw.Sometimes(inner, p=p).draw(*blank(2, 2, 2), generator=generator).lam for _ in range(3000)]
    assert all(lam[0] == lam[1] for lam in batches)
    samples = mw.Sometimes(inner, p=p, scope="sample").draw(*blank(N, 2, 2), generator=generator).lam
    for lam in (torch.stack(batches)[:, 0], samples):
        often = float((lam == 0.5).float().mean())
        assert often == p if p in (0, 1) else abs(often - p) < 0.03
