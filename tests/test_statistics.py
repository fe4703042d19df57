"""The laws of what is drawn: ratios, pairs, boxes, fields, choices. Seeds are fixed, so a test passes always or never."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import mixwell as mw
from catalogue import RATIOS
from mixwell import Batch, Beta, Constant, CutMix, Folded, Ratio, Uniform
from mixwell.ops.fourier import isotropic_field, published_field

N = 20_000
Law = Callable[[Tensor], Tensor]  # a distribution function


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator of its own."""
    return torch.Generator().manual_seed(seed)


def blank(rows: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return a batch of any size that takes no memory, and its labels."""
    return torch.zeros(1).expand(rows, 1, height, width), torch.zeros(rows, dtype=torch.int64)


def law_of(ratio: Ratio) -> Law:
    """Return the distribution function of a ratio, from SciPy."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    if isinstance(ratio, Folded):
        inner = law_of(ratio.ratio)
        return lambda t: torch.where(t < 0.5, 0.0, inner(t) - inner(1 - t))
    if isinstance(ratio, Beta):
        law = stats.beta(ratio.alpha, ratio.alpha if ratio.beta is None else ratio.beta)
    else:
        assert isinstance(ratio, Uniform)
        law = stats.uniform(ratio.low, ratio.high - ratio.low)
    return lambda t: torch.from_numpy(law.cdf(t.double().numpy()))


def distance(draws: Tensor, law: Law) -> float:
    """Return the Kolmogorov-Smirnov distance, away from the ends, where float32 rounds to exactly 0 and 1."""
    grid = torch.linspace(1e-3, 1 - 1e-3, 999, dtype=torch.float64)
    below = torch.searchsorted(draws.double().sort().values, grid, right=True) / len(draws)
    return float((below - law(grid)).abs().max())


LIMIT = 1.95 / math.sqrt(N)  # exceeded once in a thousand seeds
SMOOTH = [ratio for ratio in RATIOS if not isinstance(ratio, Constant)]
ALPHAS = [Beta(alpha) for alpha in (0.01, 0.1, 0.5, 1.5, 40.0)]


@pytest.mark.parametrize("ratio", [*SMOOTH, *ALPHAS], ids=repr)
def test_ratios_follow_their_law(ratio: Ratio) -> None:
    """Draws are distributed as they should be, at small parameters too, and no draw is outside [0, 1]."""
    draws = ratio(N, generator=seeded(1))
    assert draws.shape == (N,) and draws.dtype == torch.float32
    assert bool(((draws >= 0) & (draws <= 1)).all())
    assert distance(draws, law_of(ratio)) < LIMIT
    assert draws.equal(ratio(N, generator=seeded(1)))


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


@pytest.mark.parametrize(
    ("policy", "side", "mean"),
    [
        (CutMix(scope="sample"), 224, 0.68),
        (CutMix(scope="sample"), 32, 0.71),
        (CutMix(scope="sample", alpha=0.2), 224, 0.70),
        (CutMix(scope="sample", box="inside"), 224, 0.50),
        (CutMix(scope="sample", alpha=0.2, box="inside"), 224, 0.50),
        (mw.ResizeMix(scope="sample"), 32, 0.769),
        (mw.ResizeMix(scope="sample", box="clip"), 32, 0.846),
        (mw.MixUp(scope="sample", alpha=0.2), 4, 0.5),
        (mw.FMix(scope="sample"), 4, 0.5),
    ],
    ids=repr,
)
def test_mean_weight_of_the_anchor(policy: mw.Policy, side: int, mean: float) -> None:
    """How much mixing is left after clipping, as measured on the published code."""
    plan = policy.draw(*blank(N, side, side), generator=seeded(5))
    assert abs(float(plan.weights[:, 0].mean()) - mean) < 0.01


def test_vanishing_boxes() -> None:
    """At alpha 0.2 eight boxes in a hundred are empty."""
    plan = CutMix(scope="sample", alpha=0.2).draw(*blank(N, 224, 224), generator=seeded(6))
    assert abs(float((plan.weights[:, 0] == 1).float().mean()) - 0.08) < 0.02


@pytest.mark.parametrize("box", ["clip", "inside"])
def test_boxes_lie_anywhere(box: str) -> None:
    """Places are uniform: centres over the image, or corners where the whole box fits."""
    plan = CutMix(alpha=Constant(0.99), box=box, scope="sample").draw(*blank(N, 1000, 500), generator=seeded(7))
    top, bottom, left, right = plan.boxes[:, 0].double().unbind(1)
    high, wide = (bottom - top).max(), (right - left).max()
    whole = (bottom - top == high) & (right - left == wide)
    assert bool(whole.all()) == (box == "inside")
    for room, start in ((1000 - high, top[whole]), (500 - wide, left[whole])):
        assert distance((start + 0.5) / (room + 1), law_of(Uniform())) < LIMIT + 3e-3
    assert abs(float(torch.corrcoef(torch.stack((top[whole], left[whole])))[0, 1])) < 0.03


def test_aspect() -> None:
    """Height over width is uniform on a log scale, and the area stays."""
    policy = CutMix(alpha=Constant(0.75), box="inside", aspect=(0.25, 4.0), scope="sample")
    plan = policy.draw(*blank(N, 4000, 2000), generator=seeded(8))
    top, bottom, left, right = plan.boxes[:, 0].double().unbind(1)
    stretch = (bottom - top) / (right - left) / 2
    assert distance((stretch / 0.25).log() / math.log(16), law_of(Uniform())) < LIMIT + 1e-3
    torch.testing.assert_close(plan.weights[:, 0], torch.full((N,), 0.75), rtol=0, atol=2e-3)


@pytest.mark.parametrize("spectrum", ["isotropic", "published"])
def test_fmix_counts_pixels(spectrum: str) -> None:
    """Exactly the drawn number of pixels, rounded up or down by the toss of a coin."""
    policy = mw.FMix(spectrum=spectrum, scope="sample")
    plan = policy.draw(*blank(500, 9, 14), generator=seeded(9))
    count, wanted = plan.share((9, 14))[:, 0].sum((1, 2)), plan.lam.double() * 9 * 14
    down, up = count == wanted.floor(), count == wanted.ceil()
    assert bool((down | up).all())
    assert 150 < int(down.sum()) < 350
    torch.testing.assert_close(plan.weights[:, 0], count / (9 * 14))
    assert len(plan.mask.unique(dim=0)) > 490  # some are all one


def test_fmix_is_isotropic() -> None:
    """Contours run as often down as across, also in an image that is not square; those of the published code lean."""
    ratios = {}
    for spectrum in ("isotropic", "published"):
        policy = mw.FMix(alpha=Constant(0.5), spectrum=spectrum, scope="sample")
        mask = policy.draw(*blank(1500, 32, 32), generator=seeded(10)).share((32, 32))[:, 0]
        ratios[spectrum] = float(mask.diff(dim=1).abs().mean() / mask.diff(dim=2).abs().mean())
    assert abs(ratios["isotropic"] - 1) < 0.05
    assert abs(ratios["published"] - 1) > 0.2
    policy = mw.FMix(alpha=Constant(0.5), scope="sample")
    lying, standing = (
        policy.draw(*blank(1500, *size), generator=seeded(11)).share(size)[:, 0] for size in ((24, 40), (40, 24))
    )
    for this, other in ((1, 2), (2, 1)):
        lengths = lying.diff(dim=this).abs().mean(), standing.diff(dim=other).abs().mean()
        torch.testing.assert_close(*lengths, rtol=0.05, atol=0)


def energy_across(field: Tensor) -> Tensor:
    """Return the share of the energy at every horizontal frequency."""
    spectrum = torch.fft.fft2(field.double()).abs().square().sum((0, 1))
    folded = spectrum[1 : field.shape[2] // 2] + spectrum.flip(0)[: field.shape[2] // 2 - 1]
    energy = torch.cat((spectrum[:1], folded))
    return energy / energy.sum()


def test_fmix_spectrum() -> None:
    """The field has all horizontal frequencies; the published code's has two."""
    noise = torch.randn(2000, 32, 17, 2, generator=seeded(12))
    field = isotropic_field(noise, (32, 32), 3.0)
    across, down = energy_across(field), energy_across(field.transpose(1, 2))
    torch.testing.assert_close(across[:6], down[:6], rtol=0.15, atol=0.0)
    assert bool((across[2:] > 1e-7).all())
    assert float(energy_across(published_field(noise, (32, 32), 3.0))[2:].sum()) < 1e-9


def uniform(counts: Tensor, weights: Tensor | None = None) -> bool:
    """Tell whether counts go with a law, at a level of one in a thousand."""
    stats = pytest.importorskip("scipy.stats", reason="SciPy is not installed")
    weights = torch.ones(len(counts)) if weights is None else weights
    expected = weights.double() / weights.double().sum() * counts.sum()
    return float(stats.chisquare(counts.double().numpy(), expected.numpy()).pvalue) > 1e-3


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


def test_centre_is_drawn_by_saliency() -> None:
    """With ``draw_centre`` every place is as likely as it is salient; without a salient place all are equally likely."""
    maps = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.5, 0.0]])
    policy = mw.SaliencyMix(alpha=Constant(0.99), draw_centre=True)
    for saliency, weights in ((maps, maps), (maps * 0, torch.ones(2, 3))):
        plan = policy.draw(*blank(N, 200, 300), saliency=saliency.expand(N, 2, 3), generator=seeded(17))
        rows, columns = plan.boxes[:, 0, 0] // 100, plan.boxes[:, 0, 2] // 100
        counts = (rows * 3 + columns).bincount(minlength=6)
        assert bool((counts[weights.flatten() == 0] == 0).all())
        assert uniform(counts[weights.flatten() > 0], weights.flatten()[weights.flatten() > 0])
