"""Co-Mixup: its solver against brute force, its outputs against loops, its properties."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

import mixwell as mw
from mixwell.ops.potts import Potts
from mixwell.policies import comixup


def smooth_maps(b: int, seed: int = 0, size: tuple[int, int] = (32, 32)) -> Tensor:
    """Make saliency maps with a few peaks, shape ``(B, h, w)``."""
    noise = torch.rand(b, 1, 5, 5, generator=torch.Generator().manual_seed(seed)) ** 3
    return torch.nn.functional.interpolate(noise, size, mode="bicubic").clamp_min(0)[:, 0]


def drawn(policy: mw.CoMixup, maps: Tensor, seed: int = 0) -> mw.Plan:
    """Draw a plan for images of the size of the maps."""
    images = torch.zeros(len(maps), 1, *maps.shape[1:])
    return policy.draw(images, torch.arange(len(maps)), saliency=maps, generator=torch.Generator().manual_seed(seed))


def rows_shown(plan: mw.Plan) -> Tensor:
    """Return which row of the batch every cell of every output shows, shape ``(B, cells, cells)``."""
    shown = plan.shares.argmax(1)  # type: ignore[attr-defined]  # a MosaicPlan
    return plan.sources.gather(1, shown.flatten(1)).view_as(shown)


def energy(costs: list[list[float]], labels: tuple[int, ...], side: int, weight: float) -> float:
    """Add up the costs of labels in cells, and of all borders between different ones."""
    total = sum(costs[cell][label] for cell, label in enumerate(labels))
    for y, x in product(range(side), repeat=2):
        total += weight * (x + 1 < side and labels[y * side + x] != labels[y * side + x + 1])
        total += weight * (y + 1 < side and labels[y * side + x] != labels[y * side + x + side])
    return total


@pytest.mark.parametrize("weight", [0.0, 0.16, 0.32, 0.48, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("labels", [3, 4])
def test_solver_is_near_the_optimum(labels: int, weight: float) -> None:
    """On grids of 2 x 2 cells, of which all labellings are tried."""
    n, every = 60, list(product(range(labels), repeat=4))
    costs = -(torch.rand(4, n, labels, generator=torch.Generator().manual_seed(labels)) ** 2)
    costs *= 4 / costs.sum(0).abs()
    potts = Potts(2, labels, weight, "cpu")
    found = potts.solve(costs, potts.cheapest(costs)).argmax(2)
    gaps = []
    for problem in range(n):
        table = costs[:, problem].tolist()
        best = min(energy(table, each, 2, weight) for each in every)
        gaps.append(energy(table, tuple(found[:, problem].tolist()), 2, weight) - best)
    assert min(gaps) >= -1e-5
    exact = sum(gap < 1e-5 for gap in gaps) / n
    assert exact >= (0.9 if weight < 1 else 0.85) and sum(gaps) / n < (0.004 if weight < 1 else 0.04)  # of about 4
    if weight in (0.0, 20.0):  # borders do not matter, or they alone do
        assert exact == 1


def test_energy_is_that_of_loops() -> None:
    """Less a constant, the cost of all borders."""
    potts, costs = Potts(3, 4, 0.7, "cpu"), torch.randn(9, 5, 4)
    labels = torch.randint(4, (9, 5))
    found = potts.energy(costs, potts.one_hot[labels]) + 12 * 0.7
    expected = [energy(costs[:, k].tolist(), tuple(labels[:, k].tolist()), 3, 0.7) for k in range(5)]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("weight", [0.1, 0.5, 2.0])
def test_solver_never_worsens(weight: float) -> None:
    """Whatever it starts from, however uneven the costs."""
    potts, costs = Potts(4, 20, weight, "cpu"), torch.randn(16, 50, 20) * torch.logspace(-2, 2, 50)[:, None]
    start = potts.one_hot[torch.randint(20, (16, 50))]
    for _ in range(3):
        found = potts.solve(costs, start)
        assert bool((found.sum(2) == 1).all())
        assert bool((potts.energy(costs, found) <= potts.energy(costs, start) + 1e-3).all())
        start = found


@pytest.mark.parametrize(("b", "group"), [(6, 6), (7, 3), (5, 20), (9, 4), (3, 2)])
def test_saliency_alone_decides(b: int, group: int) -> None:
    """Without borders, diversity and preference, every cell shows the image of the group that matters most there."""
    policy = mw.CoMixup(group=group, beta=0.0, gamma=0.0, eta=0.0, blocks=4)
    maps, count = torch.rand(b, 16, 24), -(-b // group)
    plan = drawn(policy, maps)
    for row, found in enumerate(rows_shown(plan).tolist()):
        members = [other for other in range(b) if other % count == row % count]
        assert sorted({*plan.sources[row].tolist()}) == members and plan.sources[row, 0] == row
        assert 2 <= len(members) <= group or count * group > b
        for y, x in product(range(4), repeat=2):
            cells = maps[:, 4 * y : 4 * y + 4, 6 * x : 6 * x + 6].sum((1, 2)) / maps.sum((1, 2))
            assert found[y][x] == max(members, key=lambda other, cells=cells: float(cells[other]))


def test_preference() -> None:
    """With a large weight it alone decides; it is drawn for a group, and reported as the ratios."""
    plan = drawn(mw.CoMixup(group=5, eta=1e3, beta=0.0, gamma=0.0), smooth_maps(10))
    torch.testing.assert_close(plan.ratios.sum(1), torch.ones(10))
    preferred = plan.sources.gather(1, plan.ratios.argmax(1, keepdim=True))
    assert bool((rows_shown(plan).flatten(1) == preferred).all())
    assert preferred[::2].unique().numel() == preferred[1::2].unique().numel() == 1
    assert plan.lam.equal(plan.ratios[:, 0])


def test_no_image_is_everywhere() -> None:
    """With a large weight of diversity, no output takes an image that the others show in more than the threshold."""
    maps = smooth_maps(20)
    maps[3] += 5 * maps.amax()  # even, and so the cheapest where others show little
    area, threshold = 16, 0.83
    free, limited = (
        drawn(mw.CoMixup(gamma=gamma, threshold=threshold, beta=0.0, eta=0.0, omega=0.0), maps) for gamma in (0.0, 1e6)
    )
    cells = [
        torch.nn.functional.one_hot(rows_shown(plan).flatten(1), 20).sum(1) for plan in (free, limited)
    ]  # of every image in every output
    assert int(cells[0].sum(0).max()) == int(20 * cells[0][0].max()) > 2 * area
    assert int(cells[1].sum(0).max()) <= (1 + threshold) * area
    last = cells[1][-1] > 0
    assert int((cells[1].sum(0) - cells[1][-1])[last].max()) <= threshold * area


def test_sweeps_lower_the_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting every cell that the other outputs show, each sweep lowers the energy of all outputs together."""
    monkeypatch.setattr(comixup, "given_up", lambda shown, output, cell: 0)  # twins stay
    maps, totals = smooth_maps(8, seed=3), []
    for sweeps in range(1, 6):
        policy = mw.CoMixup(gamma=0.1, threshold=0.0, omega=0.05, sweeps=sweeps)
        plan, known = drawn(policy, maps), torch.ones(8, 1, dtype=torch.bool)
        ratios = plan.ratios[:1].clone()
        ratios[:, plan.sources[0]] = plan.ratios[:1]
        costs = policy.costs(maps[:, None], ratios, known)[:, 0].tolist()
        likeness = policy.likeness(maps[:, None], known)[0].tolist()
        shown = [tuple(row) for row in rows_shown(plan).flatten(1).tolist()]
        total = sum(energy(costs, each, 4, policy.beta) for each in shown)
        for one, other in product(range(8), repeat=2):
            pairs = product(shown[one], shown[other]) if one != other else ()
            total += policy.gamma * sum(likeness[i][j] for i, j in pairs)
        totals.append(total)
    assert all(later <= earlier + 1e-3 for earlier, later in pairwise(totals))
    assert totals[-1] < totals[0] - 0.1


def test_likeness() -> None:
    """A little of the distance between the most salient windows, relative to the mean; absent images do not count."""
    maps = torch.zeros(3, 1, 16, 32)
    for k, (y, x) in enumerate([(2, 4), (2, 24), (10, 4)]):
        maps[k, 0, y : y + 4, x : x + 8] = 1  # as large as the window
    found = mw.CoMixup(omega=0.1).likeness(maps, torch.tensor([[True], [True], [True]]))[0]
    far = torch.tensor([[0.0, 20, 8], [20, 0, 28], [8, 28, 0]])
    torch.testing.assert_close(found, 0.9 * torch.eye(3) + 0.1 * 3 * far / far.sum())
    found = mw.CoMixup(omega=0.1).likeness(maps, torch.tensor([[True], [True], [False]]))[0]
    torch.testing.assert_close(found[:2, :2], 0.9 * torch.eye(2) + 0.1 * 2 * far[:2, :2] / 40)


def test_outputs_that_are_the_same_move_apart() -> None:
    """In the last of several sweeps; one sweep, which has no limit here, makes all outputs alike."""
    for sweeps, least in ((1, 1), (4, 4)):
        plan = drawn(mw.CoMixup(threshold=1e3, sweeps=sweeps), smooth_maps(10))
        different = len({tuple(row) for row in rows_shown(plan).flatten(1).tolist()})
        assert different == 1 if least == 1 else different >= least


def test_autocast_changes_nothing() -> None:
    """The plan is computed in float32, label weights of cells of different sizes too."""
    maps = smooth_maps(12, size=(30, 18))
    plain = drawn(mw.CoMixup(), maps)
    with torch.autocast("cpu", torch.bfloat16):
        found = drawn(mw.CoMixup(), maps)
    assert found.shares.equal(plain.shares) and found.weights.equal(plain.weights)  # type: ignore[attr-defined]
    torch.testing.assert_close(plain.weights, plain.share((30, 18)).mean((2, 3)))


def test_small_images_and_settings() -> None:
    """More cells than pixels, and groups of one, are refused."""
    with pytest.raises(ValueError, match="CoMixup with 16 blocks per side needs images of at least 16 pixels"):
        drawn(mw.CoMixup(blocks=16), torch.rand(4, 12, 20))
    with pytest.raises(ValueError, match="group must be at least 2, but got 1"):
        mw.CoMixup(group=1)
    with pytest.raises(TypeError, match="saliency must be a source"):
        mw.CoMixup(saliency=mw.CutMix())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs images of two sources, but CoMixup"):
        mw.Mixing(torch.nn.Linear(2, 2), mw.OneOf((mw.CutMix(), mw.CoMixup())), label=mw.SemanticShare())
