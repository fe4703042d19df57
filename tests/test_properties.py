"""What each policy promises beyond the contract, seen on what it draws and not on how."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import mixwell as mw
from mixwell.batch import Batch, Pairs
from mixwell.ops.fourier import _bisected, kth_largest
from mixwell.policies.snapmix import snap

LABELS = torch.arange(16)


def images(side: tuple[int, int] = (24, 36)) -> Tensor:
    """Make a batch of 16."""
    return torch.rand(16, 3, *side)


def shares(policy: mw.Policy, maps: Tensor | None = None, side: tuple[int, int] = (24, 36)) -> Tensor:
    """Return the anchor's share of every pixel, and look whether the label agrees."""
    plan = policy.draw(images(side), LABELS, saliency=maps)
    share = plan.share(side)[:, 0]
    torch.testing.assert_close(plan.weights[:, 0], share.mean((1, 2)), rtol=0, atol=1e-5)
    return share


def test_smoothmix_is_a_hill() -> None:
    """The partner is strongest at the centre, completely so, and weaker with every step away from it."""
    partner = 1 - shares(mw.SmoothMix(scope="sample"))
    for hill in partner:
        peak = hill.max()
        assert 0.99 < peak <= 1
        places = (hill > peak - 1e-6).nonzero()
        assert len(places) <= 4 and bool((places.amax(0) - places.amin(0) <= 1).all())  # centres lie between pixels
        for dim, centre in enumerate(places[0].tolist()):
            line = hill.select(1 - dim, int(places[0, 1 - dim]))
            assert bool((line[centre:].diff() <= 1e-6).all()) and bool((line[: centre + 1].diff() >= -1e-6).all())
        rank = torch.linalg.matrix_rank(hill.double(), rtol=1e-4)
        assert rank == 1  # a product of a profile down and one across


@pytest.mark.parametrize("cells", [1, 3, 4])
def test_gridmix_deals_whole_cells(cells: int) -> None:
    """Every cell is of one image, and as many are the anchor's as the ratio says."""
    for lam in (0.0, 0.2, 0.5, 0.77, 1.0):
        share = shares(mw.GridMix(alpha=mw.Constant(lam), cells=cells, scope="sample"))
        blocks = share.unflatten(2, (cells, -1)).unflatten(1, (cells, -1)).transpose(2, 3).flatten(3)
        assert blocks.amin(3).equal(blocks.amax(3)) and set(blocks.unique().tolist()) <= {0.0, 1.0}
        assert blocks[..., 0].sum((1, 2)).eq(round(lam * cells**2)).all()


def test_gridmixup_cuts_a_regular_grid() -> None:
    """Holes repeat at one distance, are as many as asked for, and lie in a part that is within the image."""
    for count in (2, 3, 5):
        policy = mw.GridMixup(alpha=mw.Constant(0.4), count=(count, count), scope="sample", area=(0.5, 1.0))
        for hole in shares(policy, side=(60, 90)) == 0:
            for dim, line in enumerate((hole.any(1), hole.any(0))):
                starts = (line.int().diff(prepend=torch.zeros(1, dtype=torch.int32)) == 1).nonzero()[:, 0]
                assert len(starts.diff().unique()) <= 1  # all at one distance
                if dim == 1:
                    assert len(starts) == count
            assert hole.equal(hole.any(1)[:, None] & hole.any(0)[None])  # rectangles in rows and columns


@pytest.mark.parametrize(("top", "lam", "kept"), [(6, 0.9, 6), (60, 0.1, 49), (None, 0.5, 24), (None, 0.0, 1)])
@pytest.mark.parametrize("paste", [False, True])
def test_attentivemix_keeps_the_best_cells(top: int | None, lam: float, kept: int, paste: bool) -> None:
    """So many cells and no more, none of which matters less than one that is left out."""
    maps, side = torch.rand(16, 7, 7), (28, 28)
    policy = mw.AttentiveMix(alpha=mw.Constant(1 - lam if paste else lam), top=top, paste=paste, pairing=mw.Roll())
    share = shares(policy, maps, side)[:, ::4, ::4]  # a pixel of each cell
    best, values = (share == 0, maps[policy.pairing(Batch(images(), LABELS))]) if paste else (share == 1, maps)
    assert best.sum((1, 2)).eq(kept).all()
    least, most = (torch.where(best, values, 2.0).amin((1, 2)), torch.where(best, -1.0, values).amax((1, 2)))
    assert bool((least > most).all())


def test_attentivemix_does_not_mind_the_order_of_channels() -> None:
    """Nor does it draw anything but the pairs."""
    layers = [nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)]
    model, other = nn.Sequential(*layers), nn.Sequential(nn.Conv2d(3, 6, 4, 4), *layers[1:])
    order = torch.randperm(6)
    other[0].load_state_dict({name: value[order] for name, value in model[0].state_dict().items()})
    batch, policy = images((28, 28)), mw.AttentiveMix(pairing=mw.Roll())
    masks = [policy.draw(batch, LABELS, model=m).share((28, 28)) for m in (model, other, model)]
    assert masks[0].equal(masks[1]) and masks[0].equal(masks[2])
    last = mw.AttentiveMix(pairing=mw.Roll(), saliency=mw.Activation(reduce="last"))
    assert not last.draw(batch, LABELS, model=model).share((28, 28)).equal(masks[0])


def cycle(distance: Tensor, first: int, second: int) -> list[tuple[int, int]]:
    """Walk from two rows on to the farthest that was not met yet, and back."""
    met = [first, second]
    while len(met) < len(distance):
        met.append(max(set(range(len(distance))) - set(met), key=lambda row: float(distance[met[-1], row])))
    return sorted(zip(met, met[1:] + met[:1], strict=True))


def test_guidedmix_pairs_in_one_cycle() -> None:
    """It starts with the two rows farthest apart, in either direction, also where the rows come in another order."""
    maps, policy, order = torch.rand(16, 24, 36), mw.GuidedMix(), torch.randperm(16)
    batch, seen = images(), policy.guidance(maps, (24, 36)).flatten(1)
    distance = torch.cdist(seen, seen)
    a, b = divmod(int(distance.argmax()), 16)
    expected = cycle(distance, a, b), cycle(distance, b, a)
    partner = policy.draw(batch, LABELS, saliency=maps).sources[:, 1]
    assert list(enumerate(partner.tolist())) in expected
    again = policy.draw(batch[order], LABELS, saliency=maps[order]).sources[:, 1]
    assert sorted(zip(order.tolist(), order[again].tolist(), strict=True)) in expected


def test_guidedmix_shares_by_saliency() -> None:
    """Shares of a pair exchanged add up to one; equal maps share evenly."""
    swap = torch.arange(16).view(8, 2).flip(1).flatten()
    policy = mw.GuidedMix(pairing=mw.Given(swap.tolist()))
    share = shares(policy, torch.rand(16, 24, 36) ** 3)
    torch.testing.assert_close(share + share[swap], torch.ones_like(share))
    assert float(share.std()) > 0.01
    for equal in (torch.rand(1, 24, 36).expand(16, -1, -1), torch.zeros(16, 24, 36)):
        torch.testing.assert_close(shares(policy, equal), torch.full_like(share, 0.5))


def snapped(maps: Tensor, box: list[int], source: list[int]) -> Tensor:
    """Return the weights where ``source`` is pasted into ``box``."""
    batch = Batch(images(), LABELS, saliency=maps)
    pairs = Pairs(LABELS.roll(1), torch.ones(1), batch.size, batch=batch)
    return snap(pairs, torch.tensor([box]), torch.tensor([source])).weights


def test_snapmix_weighs_by_content() -> None:
    """A box over everything takes all, one around everything brings all; even maps count pixels; none exceeds one."""
    maps = torch.rand(16, 24, 36) ** 4
    maps /= maps.sum((1, 2), keepdim=True)
    box, source, whole = [0, 12, 0, 18], [6, 12, 6, 12], [0, 24, 0, 36]  # top, bottom, left, right
    torch.testing.assert_close(snapped(maps, whole, source)[:, 0], torch.zeros(16), rtol=0, atol=1e-5)
    torch.testing.assert_close(snapped(maps, box, whole)[:, 1], torch.ones(16), rtol=0, atol=1e-5)
    even = snapped(torch.full_like(maps, 1 / maps[0].numel()), box, source)
    torch.testing.assert_close(even, torch.tensor([0.75, 36 / 864]).expand(16, 2))
    weights = mw.SnapMix(scope="sample")(images(), LABELS, saliency=maps).weights
    assert weights.min() >= 0 and weights.max() <= 1 and float((weights.sum(1) - 1).abs().max()) > 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kth_largest_is_that_of_a_sorted_row(dtype: torch.dtype) -> None:
    """On the CPU and elsewhere, with ties, from the first to the last."""
    values = torch.randn(40, 97).to(dtype)
    values[:5] = values[:5].round()
    k = torch.cat((torch.tensor([1, 97]), torch.randint(1, 98, (38,))))[:, None]
    expected = values.sort(1, descending=True).values.gather(1, k - 1)
    assert kth_largest(values, k).equal(expected) and _bisected(values, k).eq(expected).all()


@pytest.mark.parametrize("aspect", [(1.0, 1.0), (0.25, 4.0)])
@pytest.mark.parametrize("side", [(16, 16), (24, 36), (64, 17)])
def test_cutmix_matches_the_area(aspect: tuple[float, float], side: tuple[int, int]) -> None:
    """To half a row or column, however flat the box is; rounded down, it misses by more."""
    missed = {}
    for match in (True, False):
        policy = mw.CutMix(alpha=mw.Uniform(), box="inside", match_area=match, aspect=aspect, scope="sample")
        missed[match] = torch.cat([_missed(policy, side) for _ in range(40)])
    assert missed[True].max() <= max(side) / 2 + 1e-3
    assert missed[True].mean() < missed[False].mean() / 2


def _missed(policy: mw.Policy, side: tuple[int, int]) -> Tensor:
    plan = policy.draw(images(side), LABELS)
    return (plan.weights[:, 0] - plan.lam).abs() * side[0] * side[1]


def test_saliencymix_draws_by_temperature() -> None:
    """Cold it keeps to the peak, hot it goes anywhere, whatever the map's largest value is."""
    maps = torch.linspace(0, 1, 64).view(1, 8, 8).expand(16, 8, 8)
    for scale in (1.0, 1e-4):
        covered = {}
        for temperature in (0.001, 100.0):
            policy = mw.SaliencyMix(alpha=mw.Constant(0.9), draw_centre=True, temperature=temperature)
            plans = [policy.draw(images((8, 8)), LABELS, saliency=maps * scale) for _ in range(20)]
            covered[temperature] = float(torch.cat([plan.share((8, 8))[:, 1, 7, 7] for plan in plans]).mean())
        assert covered[0.001] == 1 and covered[100.0] < 0.1


def test_snapmix_shares_both_draws_within_a_pair() -> None:
    """Rows that are each other's partner get boxes of the same sizes at the same places."""
    plan = mw.SnapMix(pairing=mw.Reverse(), scope="pair").draw(images(), LABELS, saliency=torch.rand(16, 4, 6))
    for boxes in (plan.boxes, plan.source_boxes):
        assert torch.equal(boxes, boxes.flip(0)) and not torch.equal(boxes[:8], boxes[1:9])


@pytest.mark.parametrize("policy", [mw.GuidedMix(), mw.until(mw.CutMix(pairing=mw.Reverse()), 0.9)], ids=repr)
def test_sometimes_keeps_the_pairs_of_its_policy(policy: mw.BatchPolicy) -> None:
    """However they are found: rows that are left alone have the partner that they would have been mixed with."""
    x = images()
    seeds = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = policy.draw(x, LABELS, generator=seeds[0])
    some = mw.Sometimes(policy, p=0.5, scope="sample").draw(x, LABELS, generator=seeds[1])
    assert torch.equal(some.sources, plain.sources)
    alone = some.weights[:, 0] == 1
    assert 0 < alone.sum() < 16
    torch.testing.assert_close(some.share((24, 36))[~alone], plain.share((24, 36))[~alone])


@pytest.mark.parametrize("make", [lambda m: m.bfloat16(), lambda m: (m * 9).byte(), lambda m: m - 0.5])
@pytest.mark.parametrize("policy", [mw.GuidedMix(), mw.AttentiveMix(), mw.SaliencyMix(draw_centre=True)], ids=repr)
def test_saliency_of_any_type_and_sign(policy: mw.Policy, make: object) -> None:
    """Half precision and bytes are numbers too, and what is negative does not matter."""
    maps = make(torch.rand(16, 4, 6))
    plan = policy.draw(images(), LABELS, saliency=maps)
    assert bool((plan.weights >= 0).all()) and bool((plan.weights <= 1).all())
    share = plan.share((24, 36))
    assert share.min() >= 0 and share.max() <= 1


def test_puzzlemix_looks_at_all_its_grids() -> None:
    """So that a size of image that one of them does not fit stops the first batch and not the hundredth."""
    for _ in range(8):
        with pytest.raises(ValueError, match="16 x 16 cells needs sides that 16 divides"):
            mw.PuzzleMix().draw(images((24, 48)), LABELS, saliency=torch.rand(16, 24, 48))
