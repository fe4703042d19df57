"""PuzzleMix: its solver against brute force and exact cuts, its transport against plain loops, its properties."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from mixwell.batch import Batch, Pairs
from mixwell.integrations.scipy import ExactPuzzleMix, exact_assignment
from mixwell.methods.perturbed import PerturbedMixing
from mixwell.normalization import IMAGENET, Normalization
from mixwell.ops.transport import plan_matrix, proposals, staying, transport_costs
from mixwell.pairing import Roll
from mixwell.plan import MaskPlan, PatchPlan
from mixwell.policies.mixup import MixUp
from mixwell.policies.puzzlemix import PuzzleMix
from mixwell.ratio import Constant
from mixwell.saliency import FineGrained, InputGradient
from reference_puzzlemix import energy_of, in_unit_range, on_cells, published_transport, puzzlemix
from slow_plans import Drawn


def photographs(b: int, size: tuple[int, int] = (32, 32), channels: int = 3, seed: int = 0) -> Tensor:
    """Make smooth pictures in [0, 1]."""
    noise = torch.rand(b, channels, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, size, mode="bicubic").clamp(0, 1)


def solved(policy: PuzzleMix, lam: float, partner: Tensor, maps: Tensor, images: Tensor) -> Tensor:
    """Return the mask."""
    batch = Batch(images, torch.zeros(len(images), dtype=torch.int64), saliency=maps)
    return policy.plan(Pairs(partner, torch.tensor([lam]), batch.size, batch=batch)).mask[:, 0]


def test_saliency_alone_decides() -> None:
    """Without prior and borders every cell shows the image that matters more there."""
    maps, partner = torch.rand(16, 4, 4), torch.arange(16).roll(1)
    policy = PuzzleMix(blocks=4, beta=0.0, gamma=0.0, eta=0.0)
    shares = maps / maps.sum((1, 2), keepdim=True)
    assert solved(policy, 0.3, partner, maps, photographs(16)).equal((shares > shares[partner]).float())


def test_extreme_ratios() -> None:
    """The ratio pulls: close to 1 nearly everything shows the anchor, close to 0 nothing, at both ends all."""
    maps, partner = torch.rand(16, 8, 8) + 0.5, torch.arange(16).roll(1)
    shares = [
        float(solved(PuzzleMix(blocks=8), lam, partner, maps, photographs(16)).mean())
        for lam in (0.0, 1e-4, 0.3, 0.5, 0.7, 1 - 1e-4, 1.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] == shares[1] == 0
    assert shares[-1] == shares[-2] == 1


@pytest.mark.parametrize("labels", [2, 3, 4])
def test_other_way_round(labels: int) -> None:
    """Exchanging anchor and partner and the ratio's ends exchanges the shares."""
    maps, images = torch.rand(8, 8, 8) ** 3, photographs(8)
    swap = torch.arange(8).view(4, 2).flip(1).flatten()
    policy = PuzzleMix(blocks=8, labels=labels, iterations=400)
    mask, other = (solved(policy, lam, swap, maps, images) for lam in (0.35, 0.65))
    torch.testing.assert_close(other[swap], 1 - mask, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eps", [0.8, 0.1, 0.03, 0.001])
@pytest.mark.parametrize("cells", [2, 4, 8])
def test_transport(cells: int, eps: float) -> None:
    """As the published loops do it; a partial permutation, no shown place empty, no dearer than staying."""
    saliency = torch.rand(12, cells, cells, generator=torch.Generator().manual_seed(cells)) ** 4 + 1e-3
    saliency /= saliency.sum((1, 2), keepdim=True)
    shown = torch.rand(12, cells, cells) < torch.linspace(0, 1, 12)[:, None, None]
    costs = transport_costs(saliency, shown, eps)
    taken = proposals(costs, cells)
    moves = staying(taken)
    expected = [published_transport(s, m, eps) for s, m in zip(saliency.numpy(), shown.numpy(), strict=True)]
    assert moves.tolist() == expected
    matrix = plan_matrix(taken).long()
    assert int(matrix.sum(1).max()) <= 1 and int(matrix.sum(2).max()) <= 1
    assert bool((taken >= 0)[shown.flatten(1)].all())
    spent, staid = _spent(costs, moves, shown), _spent(costs, torch.arange(cells**2).expand_as(moves), shown)
    assert bool((spent <= staid + 1e-6).all())
    exact = exact_assignment(costs, shown)
    assert exact.sort(1).values.equal(torch.arange(cells**2).expand_as(exact))
    assert bool((_spent(costs, exact, shown) <= spent + 1e-6).all())


def _spent(costs: Tensor, moves: Tensor, shown: Tensor) -> Tensor:
    return (costs.gather(1, moves[:, None])[:, 0] * shown.flatten(1)).sum(1)


SETTINGS = [
    PuzzleMix(blocks=2),
    PuzzleMix(blocks=3, transport_eps=0.02, labels=2),
    PuzzleMix(blocks=2, transport_cells=4, transport_eps=0.02, scope="sample"),
    PuzzleMix(blocks=2, labels=4, transport=False, gamma=0.9),
    PuzzleMix(blocks=1),
]


DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)


def given(policy: PuzzleMix, dtype: torch.dtype) -> tuple[Pairs, Drawn]:
    """Make pairs, and the same for the slow reference."""
    images = photographs(5, (12, 24), channels=2)
    images = (images * 255).round().byte() if dtype == torch.uint8 else images
    batch = Batch(images, torch.arange(5), saliency=torch.rand(5, 10, 20) ** 3)
    partner, lam = torch.tensor([2, 3, 4, 1, 0]), torch.rand(1 if policy.scope == "batch" else 5)
    sources = torch.stack((torch.arange(5), partner), 1).tolist()
    drawn = Drawn(images, sources, lam.expand(5).tolist(), [], batch.saliency.tolist())
    return Pairs(partner, lam, batch.size, batch=batch), drawn


@DTYPES
@pytest.mark.parametrize("cells", [1, 2, 3, 6])
@pytest.mark.parametrize("policy", SETTINGS, ids=repr)
def test_costs_equal_reference(policy: PuzzleMix, cells: int, dtype: torch.dtype) -> None:
    """Every term of the energy, against the formula written out."""
    pairs, drawn = given(policy, dtype)
    unary, *weights = policy.costs(pairs, cells)
    for row, (lam, sources) in enumerate(zip(drawn.lam, drawn.sources, strict=True)):
        images = in_unit_range(policy, drawn, cells)
        saliency = tuple(on_cells(drawn.maps[k], cells) for k in sources)
        expected, borders = energy_of(policy, tuple(images[k] for k in sources), saliency, lam, cells)
        torch.testing.assert_close(unary[row].double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)
        for (here, there), weight in borders.items():
            assert float(weights[here[0] == there[0]][row][here]) == pytest.approx(weight, rel=1e-4)


@DTYPES
@pytest.mark.parametrize("policy", SETTINGS, ids=repr)
def test_equals_reference(policy: PuzzleMix, dtype: torch.dtype) -> None:
    """The whole policy, against the slow one."""
    pairs, drawn = given(policy, dtype)
    plan = policy.plan(pairs)
    assert isinstance(plan, PatchPlan if policy.transport else MaskPlan)
    expected = puzzlemix(policy, drawn)
    torch.testing.assert_close(plan.share(pairs.size), expected.share, rtol=0, atol=1e-6)
    torch.testing.assert_close(plan.weights, expected.weights, rtol=0, atol=1e-6)
    far = 0.501 if dtype == torch.uint8 else 1e-6
    torch.testing.assert_close(plan.apply(drawn.images).double(), expected.images, rtol=0, atol=far)


def test_sides_that_cells_do_not_divide() -> None:
    """Without transport any size will do, with it the error says what to change."""
    images, maps = photographs(4, (9, 14)), torch.rand(4, 9, 14)
    mixed = PuzzleMix(blocks=4, transport=False)(images, torch.arange(4), saliency=maps)
    torch.testing.assert_close(mixed.plan.share((9, 14)).mean((2, 3)), mixed.weights)
    with pytest.raises(ValueError, match="transport=False"):
        PuzzleMix(blocks=4)(images, torch.arange(4), saliency=maps)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        PuzzleMix(blocks=16, transport=False)(images, torch.arange(4), saliency=maps)


def test_all_blocks_are_drawn() -> None:
    """Every batch has its own grid, the same one from the same generator."""
    images, labels, maps = photographs(4), torch.arange(4), torch.rand(4, 32, 32)
    plans = [
        PuzzleMix().draw(images, labels, saliency=maps, generator=torch.Generator().manual_seed(seed))
        for seed in (*range(24), *range(24))
    ]
    sides = [plan.mask.shape[2] for plan in plans]  # type: ignore[attr-defined]
    assert set(sides) == {2, 4, 8, 16}
    assert sides[:24] == sides[24:]


@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": 0},
        {"blocks": ()},
        {"labels": 1},
        {"beta": -1.0},
        {"neighbourhood": 0},
        {"transport_cells": 6},
        {"transport_cells": 0},
        {"iterations": 0},
    ],
    ids=str,
)
def test_wrong_settings(settings: dict) -> None:
    """Settings out of range are refused where they are written."""
    with pytest.raises(ValueError, match=next(iter(settings))):
        PuzzleMix(**settings)


@pytest.mark.parametrize("sides", [(8, 8), (12, 9)])
def test_normalized_images_cost_what_their_bytes_cost(sides: tuple[int, int]) -> None:
    """Border weights are those of the uint8 images, whatever the normalization; without one it is asked for."""
    pixels = (photographs(4, sides) * 255).round().byte()
    settings = {"saliency": torch.rand(4, *sides)}
    partner, lam = torch.tensor([1, 2, 3, 0]), torch.tensor([0.4])
    policy = PuzzleMix(blocks=4, transport=False)

    def costs(images: Tensor, normalization: Normalization | None) -> list[Tensor]:
        batch = Batch(images, torch.arange(4), normalization=normalization, **settings)
        return list(policy.costs(Pairs(partner, lam, batch.size, batch=batch), 4))

    expected = costs(pixels, None)
    for normalization in (IMAGENET, Normalization(0.5, 0.25), Normalization(0.0, 1 / 255)):
        for ours, theirs in zip(costs(normalization.normalize(pixels / 255), normalization), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(costs(pixels / 255, None), expected)
    with pytest.raises(ValueError, match=r"PuzzleMix computes in pixel values, .* normalization=mw.IMAGENET"):
        policy(IMAGENET.normalize(pixels / 255), torch.arange(4), **settings)
    with pytest.raises(ValueError, match="has 3 channels, but the images have shape"):
        policy(pixels[:, :2] / 255, torch.arange(4), normalization=IMAGENET, **settings)


def test_other_solvers_and_sources() -> None:
    """Exact solvers take the place of the others, and any source says where it matters."""
    images, labels = photographs(6), torch.arange(6)
    policy = ExactPuzzleMix(blocks=4, saliency=FineGrained())
    mixed = policy(images, labels, generator=torch.Generator().manual_seed(0))
    usual = PuzzleMix(blocks=4, saliency=FineGrained())(images, labels, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed.weights, usual.weights, rtol=0, atol=0.05)
    assert PuzzleMix().saliency == InputGradient()


@pytest.mark.parametrize(
    "policy", [PuzzleMix(alpha=Constant(0.5), blocks=4, eta=0.0, pairing=Roll()), MixUp(pairing=Roll())], ids=repr
)
@pytest.mark.parametrize("dense", [False, True])
def test_clean_loss(policy: PuzzleMix | MixUp, dense: bool) -> None:
    """One pass in train mode gives its own loss to learn, and the saliency with which the second pass is mixed."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5)).train()
    images, labels = torch.rand(8, 3, 8, 8), torch.arange(8) % 5
    given = nn.functional.one_hot(labels, 5).float() if dense else labels
    other, pixels = deepcopy(model), images.clone().requires_grad_()
    step = PerturbedMixing(model, policy, p=0.0, clean_lam=0.4)
    draws = torch.get_rng_state()
    got = step(images, given)
    got["loss"].backward()

    clean = -other(pixels).log_softmax(1)[torch.arange(8), labels].mean()  # the first pass of another copy
    clean.backward()
    first = {name: p.grad * 0.4 for name, p in other.named_parameters()}
    maps = pixels.grad.square().sum(1).sqrt()  # up to a factor, which does not matter
    other.zero_grad()
    torch.set_rng_state(draws)
    torch.rand(8, 1, 1, 1), torch.rand_like(images), torch.rand(())  # what decides about noise
    mixed = policy(images, labels, saliency=maps)
    wrong = -other(mixed.images).log_softmax(1)
    loss = sum(mixed.weights[:, k] @ wrong[torch.arange(8), mixed.labels[:, k]] for k in range(2)) / 8
    loss.backward()

    torch.testing.assert_close(got["loss"], loss + 0.4 * clean)
    torch.testing.assert_close(got["clean_loss"], clean.detach())
    assert not got["clean_loss"].requires_grad
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, first[name] + other.get_parameter(name).grad, rtol=1e-4, atol=1e-6)
    assert all(value.equal(other.state_dict()[name]) for name, value in model.state_dict().items())  # both passes count
    with pytest.raises(ValueError, match=r"clean_lam must be a finite number of at least 0.*-1"):
        PerturbedMixing(model, clean_lam=-1)
