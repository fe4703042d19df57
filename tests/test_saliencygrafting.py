"""Saliency Grafting: candidates, the random choice among them, and label weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

import mixwell as mw
from cases import fixed_classifier

ROWS, CELLS, SIDE = 12, 6, (24, 36)
LABELS = torch.arange(ROWS)


def fine(maps: Tensor) -> Tensor:
    """Repeat maps of the cells to the size of the images."""
    return maps.repeat_interleave(SIDE[0] // CELLS, 1).repeat_interleave(SIDE[1] // CELLS, 2)


def draw(maps: Tensor, **settings: object) -> mw.Plan:
    """Graft the next image's cells; maps have one value per cell, or are as large as the images."""
    maps = fine(maps) if maps.shape[1] == CELLS else maps
    policy = mw.SaliencyGrafting(cells=CELLS, pairing=mw.Roll(), **settings)  # type: ignore[arg-type]
    return policy.draw(torch.rand(ROWS, 3, *SIDE), LABELS, saliency=maps)


def grafted(plan: mw.Plan) -> Tensor:
    """Return which cells are pasted, shape (B, cells, cells)."""
    share = plan.share(SIDE)[:, 1].unflatten(2, (CELLS, -1)).unflatten(1, (CELLS, -1))
    assert share.amin((2, 4)).equal(share.amax((2, 4)))  # whole cells
    return share[:, :, 0, :, 0] == 1


@pytest.mark.parametrize("temperature", [0.05, 0.3, 1.0, 50.0])
def test_candidates(temperature: float) -> None:
    """With lam = 0 all cells above the mean of the softmax are grafted, and no other."""
    maps = torch.rand(ROWS, CELLS, CELLS)
    cells = grafted(draw(maps, alpha=mw.Constant(0.0), temperature=temperature))
    partner = maps.roll(1, 0)
    shares = (partner / partner.amax((1, 2), keepdim=True) / temperature).flatten(1).double().softmax(1)
    assert cells.flatten(1).equal(shares > 1 / CELLS**2)
    if temperature == 50.0:
        assert cells.equal(partner > partner.mean((1, 2), keepdim=True))


def test_lower_temperatures_have_fewer_candidates() -> None:
    """Candidates at a lower temperature are candidates at a higher one too; at last the peak alone is left."""
    maps = torch.rand(ROWS, CELLS, CELLS)
    found = [grafted(draw(maps, alpha=mw.Constant(0.0), temperature=t)) for t in (1e-4, 0.1, 1.0, 10.0)]
    assert all(bool((low <= high).all()) for low, high in pairwise(found))
    assert found[0].flatten(1).nonzero()[:, 1].equal(maps.roll(1, 0).flatten(1).argmax(1))


def test_each_candidate_is_grafted_with_the_same_probability() -> None:
    """The share of grafted candidates is 1 - lam, and one half by default."""
    maps = torch.rand(ROWS, CELLS, CELLS)
    candidates = grafted(draw(maps, alpha=mw.Constant(0.0)))
    for settings, expected in (({}, 0.5), ({"alpha": mw.Constant(0.8)}, 0.2)):
        counts = torch.stack([grafted(draw(maps, **settings)) for _ in range(200)]).float().mean(0)
        assert not counts[~candidates].any()
        assert counts[candidates].mean().item() == pytest.approx(expected, abs=0.02)
        assert bool(((counts[candidates] - expected).abs() < 0.2).all())


@pytest.mark.parametrize(("maps", "lam"), [(torch.rand(ROWS, 6, 6), 1.0), (torch.ones(ROWS, 6, 6), 0.0)])
def test_no_cells_no_change(maps: Tensor, lam: float) -> None:
    """Where nothing is chosen, or no cell stands out, the anchor comes back with weight one."""
    images = torch.rand(ROWS, 3, *SIDE)
    mixed = mw.SaliencyGrafting(cells=CELLS, alpha=mw.Constant(lam))(images, LABELS, saliency=fine(maps))
    assert mixed.images.equal(images) and mixed.weights[:, 0].eq(1).all()


def test_weights_follow_visible_saliency() -> None:
    """The norm of what is visible over that of the whole map, divided by both: also where maps have zeros only."""
    maps = torch.rand(ROWS, CELLS, CELLS)
    maps[3] = 0
    plan = draw(maps)
    cells, filled = grafted(plan), torch.where(maps.any(2, keepdim=True).any(1, keepdim=True), maps, 1.0)
    own, other = filled, filled.roll(1, 0)
    parts = [own[~c].norm() / own.norm() for own, c in zip(own, cells, strict=True)]
    grafts = [other[c].norm() / other.norm() for other, c in zip(other, cells, strict=True)]
    expected = torch.tensor([float(a / (a + b)) for a, b in zip(parts, grafts, strict=True)])
    torch.testing.assert_close(plan.weights, torch.stack((expected, 1 - expected), 1))
    assert plan.weights[4, 0] == 1  # its partner shows nothing salient
    assert not plan.weights[:, 0].allclose(plan.share(SIDE)[:, 0].mean((1, 2)))
    torch.testing.assert_close(plan.ratios[:, 0], plan.share(SIDE)[:, 0].mean((1, 2)))


def test_covering_what_matters() -> None:
    """A salient cell that is covered leaves the anchor no weight, although most of its pixels are visible."""
    maps = torch.zeros(2, CELLS, CELLS)
    maps[:, 2, 3] = 1.0
    mixed = mw.SaliencyGrafting(cells=CELLS, alpha=mw.Constant(0.0), pairing=mw.Roll())(
        torch.rand(2, 3, *SIDE), torch.arange(2), saliency=fine(maps)
    )
    assert mixed.weights.tolist() == [[0.0, 1.0]] * 2
    assert mixed.plan.lam.tolist() == pytest.approx([1 - 1 / CELLS**2] * 2)


def test_pools_the_maximum() -> None:
    """The cell of a single salient pixel is a candidate, and not one that is less salient everywhere."""
    maps = torch.zeros(ROWS, *SIDE)
    maps[:, :4, :6] = 0.5
    maps[:, 13, 22] = 1.0
    cells = grafted(draw(maps, alpha=mw.Constant(0.0), temperature=0.05))
    assert cells.nonzero().tolist() == [[row, 13 * CELLS // 24, 22 * CELLS // 36] for row in range(ROWS)]


def test_gradient_of_the_model_is_the_saliency() -> None:
    """By default, maps are gradients of the loss with respect to the input."""
    images, model = torch.rand(ROWS, 3, *SIDE), fixed_classifier()
    maps = mw.InputGradient()(model, images, LABELS % 7)
    results = []
    for given in ({"model": model}, {"saliency": maps}):
        generator = torch.Generator().manual_seed(0)
        results.append(mw.SaliencyGrafting(cells=CELLS)(images, LABELS % 7, generator=generator, **given))  # type: ignore[arg-type]
    assert results[0].images.equal(results[1].images) and results[0].weights.equal(results[1].weights)
