"""The mix blocks against explicit attention in loops, and what masks may and may not depend on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mixwell import MaskPlan, Pairs
from mixwell.mixers.adaptivemask import AdaptiveMask, SourceAttention
from mixwell.mixers.masks import (
    AreaHinge,
    Sparsity,
    SumOf,
    VarianceBonus,
    adjusted,
    even_near_pure,
)
from mixwell.mixers.mixblock import BlockSettings, MixBlock, PairAttention, ease
from mixwell.mixers.published import ReleasedPairAttention, published
from mixwell.plan.shares import SharePlan

SETTINGS = [
    PairAttention(),
    PairAttention(lam_concat=True, norm="layer"),
    ReleasedPairAttention(lam_concat_value=True, reduction=4),
    ReleasedPairAttention(lam_multiply=1.0, residual=False, k=1.0),
    PairAttention(lam_multiply=1.0, k=0.25, pair=True, neck=True),
    PairAttention(pair=True, norm="batch"),
]
SHAPES = [(7, 7), (8, 8), (3, 5), (14, 14)]


def awake(block: nn.Module) -> nn.Module:
    """Give a block weights that make a difference."""
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block.eval()


def told(maps: Tensor, number: float) -> Tensor:
    return torch.cat((maps, torch.full_like(maps[:1], number)))


def slow_logits(block: MixBlock, a: Tensor, b: Tensor, lam: float) -> Tensor:
    """Return what the partner gets of every place of one pair ``(C, h, w)``, place by place."""
    s = block.settings
    r = lam if s.k is None else float(ease(torch.tensor(lam, dtype=torch.float64), s.k))
    if s.lam_multiply:
        residual = getattr(s, "residual", True)
        a, b = (a * (1 + r), b * (2 - r)) if residual else (a * r, b * (1 - r))
    valued = told(b, 1 - lam) if s.lam_concat or getattr(s, "lam_concat_value", False) else b
    if s.lam_concat:
        a, b = told(a, lam), told(b, 1 - lam)
    if s.pair:
        a = b = torch.cat((a, b))
    query, key = block.query(a[None])[0], (block.key or block.query)(b[None])[0]
    value = block.value(valued[None])[0, 0]
    height, width = value.shape
    found = torch.zeros(height, width)
    for i in range(height * width):
        q = query[:, i // width, i % width]
        scores = [float(q @ key[:, j // width, j % width]) / math.sqrt(len(q)) for j in range(height * width)]
        largest = max(scores)
        shares = [math.exp(score - largest) for score in scores]
        looked = sum(share * float(value[j // width, j % width]) for j, share in enumerate(shares))
        found[i // width, i % width] = looked / sum(shares)
    return found


@torch.no_grad()
@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_block_is_attention(settings: PairAttention) -> None:
    block = awake(settings.build(8))
    features, partner, lam = torch.randn(3, 8, 3, 5), torch.tensor([1, 2, 0]), torch.tensor([0.2, 0.5, 0.9])
    share = block(features, features[partner], lam, (6, 10))
    assert share.shape == (3, 1, 6, 10) and share.dtype == torch.float32
    for row in range(3):
        logits = slow_logits(block, features[row], features[partner[row]], float(lam[row]))
        for y in range(6):
            for x in range(10):
                assert float(share[row, 0, y, x]) == pytest.approx(1 / (1 + math.exp(logits[y // 2, x // 2])), abs=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("settings", SETTINGS, ids=repr)
def test_ratio_of_each_sample(settings: PairAttention) -> None:
    """A batch is so many batches of one."""
    block = awake(settings.build(8))
    a, b, lam = torch.randn(4, 8, 4, 4), torch.randn(4, 8, 4, 4), torch.rand(4)
    together = block(a, b, lam, (8, 8))
    alone = torch.cat([block(a[i : i + 1], b[i : i + 1], float(lam[i]), (8, 8)) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fresh_block_shares_evenly(shape: tuple[int, int]) -> None:
    for settings in SETTINGS[:5:2]:
        block = settings.build(16)
        share = block(torch.randn(2, 16, *shape), torch.randn(2, 16, *shape), 0.9, (16 * shape[0], 16 * shape[1]))
        assert (share - 0.5).abs().max() < 0.05


@torch.no_grad()
def test_sizes_that_are_no_multiples() -> None:
    for mode in ("nearest", "bilinear", "bicubic"):
        block = awake(PairAttention(upsampling=mode).build(8))
        share = block(torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5), 0.5, (33, 17))
        assert share.shape == (2, 1, 33, 17) and share.min() >= 0 and share.max() <= 1


def test_float32_under_autocast() -> None:
    block = awake(PairAttention().build(8))
    a, b = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    expected = block(a, b, 0.5, (8, 8))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block(a, b, 0.5, (8, 8)), expected)
        coarse = block(a.bfloat16(), b.bfloat16(), 0.5, (8, 8))
    torch.testing.assert_close(coarse, expected, atol=0.05, rtol=0)


@torch.no_grad()
def test_attention_sums_to_one() -> None:
    block = awake(MixBlock(8))
    attention = block.attention(torch.randn(2, 8, 3, 4), torch.randn(2, 8, 3, 4), 0.5)
    torch.testing.assert_close(attention.sum(2), torch.ones(2, 12))


@torch.no_grad()
@pytest.mark.parametrize("sources", [2, 3, 5])
@pytest.mark.parametrize("settings", [SourceAttention(lam_concat=True), SourceAttention()], ids=repr)
def test_shares_against_loops(sources: int, settings: SourceAttention) -> None:
    block = awake(settings.build(8))
    maps, lam = torch.randn(2, sources, 8, 3, 3), torch.rand(2, sources)
    shares = block(maps, lam, (3, 3))
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 3, 3))
    for row in range(2):
        seen = [told(maps[row, i], float(lam[row, i])) if settings.lam_concat else maps[row, i] for i in range(sources)]
        query, key, value = (
            [layer(m[None])[0].flatten(1) for m in seen] for layer in (block.query, block.key, block.value)
        )
        logits = torch.zeros(sources, 9)
        for i in range(sources):
            others = [j for j in range(sources) if j != i]
            for place in range(9):
                scores = sum(query[i][:, place] @ key[j] for j in others) / math.sqrt(len(query[i]))
                logits[i, place] = (scores.softmax(0) * value[i][0]).sum()
        torch.testing.assert_close(shares[row].flatten(1), logits.softmax(0), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_share_plan_against_loops(device: torch.device) -> None:
    images, shares = torch.rand(4, 3, 6, 6, device=device), torch.rand(4, 3, 2, 3, device=device).softmax(1)
    partner = torch.tensor([[1, 2], [2, 3], [3, 0], [0, 0]], device=device)
    plan = SharePlan(Pairs(partner, torch.rand(4, device=device), (6, 6)), shares)
    mixed = plan.apply(images)
    for row in range(4):
        rows = [row, *partner[row].tolist()]
        for y in range(6):
            for x in range(6):
                part = shares[row, :, y // 3, x // 2]
                torch.testing.assert_close(
                    mixed[row, :, y, x], sum(part[k] * images[rows[k], :, y, x] for k in range(3))
                )
    torch.testing.assert_close(plan.weights, plan.share((6, 6)).mean((2, 3)))
    again = type(plan).from_state_dict(plan.state_dict())
    assert torch.equal(again.apply(images), mixed)


@torch.no_grad()
def test_two_shares_are_a_mask() -> None:
    images, share = torch.rand(4, 3, 8, 8), torch.rand(4, 1, 8, 8)
    pairs = Pairs(torch.tensor([1, 2, 3, 0]), torch.rand(4), (8, 8))
    torch.testing.assert_close(
        SharePlan(pairs, torch.cat((share, 1 - share), 1)).apply(images), MaskPlan(pairs, share).apply(images)
    )


def test_which_masks_are_replaced_near_pure_ratios() -> None:
    table = {(0.5, 0.5): False, (0.03, 0.97): True, (0.04, 0.96): False, (1.0, 0.0): True}
    table |= {(0.98,): True, (0.02,): True, (0.5,): False}
    table |= {(0.5, 0.48, 0.02): True, (0.3, 0.3, 0.4): False, (0.98, 0.01, 0.01): True}
    for lam, expected in table.items():
        ratios = torch.tensor([lam], dtype=torch.float64)
        shares = torch.full((1, len(lam), 1, 1), 2.0, dtype=torch.float64)
        replaced = even_near_pure(shares, ratios, 0.03)[:, :, 0, 0]
        assert torch.equal(replaced, ratios if expected else shares[:, :, 0, 0]), lam


def test_adjusted_area() -> None:
    share, lam = torch.rand(8, 1, 16, 16), torch.linspace(0, 1, 8)
    found = adjusted(share, lam)
    torch.testing.assert_close(found.mean((1, 2, 3)), lam, atol=1e-5, rtol=1e-5)
    assert found.min() >= 0 and found.max() <= 1
    for extreme in (torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)):
        assert adjusted(extreme, torch.tensor([0.5])).isfinite().all()


@pytest.mark.parametrize("k", [None, 0.25, 1.0, 10.0])
def test_ease_keeps_order(k: float | None) -> None:
    lam = torch.linspace(0, 1, 101, dtype=torch.float64)
    eased = ease(lam, k)
    assert (eased[1:] > eased[:-1]).all()
    torch.testing.assert_close(eased[[0, 50, 100]], lam[[0, 50, 100]])
    torch.testing.assert_close(eased + eased.flip(0), torch.ones_like(lam))


def halves() -> Tensor:
    return torch.stack((torch.zeros(1, 4, 4), torch.ones(1, 4, 4)))


def test_mask_losses() -> None:
    lam, half = torch.tensor([0.5, 0.5]), torch.full((2, 1, 4, 4), 0.5)
    assert published("L1")(halves(), lam) == 0 and AreaHinge()(halves(), lam) == pytest.approx(0.4)
    assert AreaHinge()(half, torch.tensor([0.55, 0.45])) == 0
    assert AreaHinge()(half, torch.tensor([0.5, 0.9])) == pytest.approx(0.15)
    assert AreaHinge(power=2)(half, torch.tensor([0.9])) == pytest.approx(0.16 - 0.01)
    assert published("L1+Variance")(halves(), lam) == pytest.approx(-0.5)
    assert VarianceBonus()(halves(), lam) == pytest.approx(0.2)  # each mask is constant
    assert Sparsity()(halves(), lam) == 0 and Sparsity()(half, lam) == pytest.approx(0.15)
    assert SumOf((AreaHinge(), Sparsity()))(half, lam) == pytest.approx(0.15)
    with pytest.raises(ValueError, match=r"one of L1, L1\+Variance"):
        published("L3")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairAttention(reduction=0), "at least 1"),
        (lambda: PairAttention(norm="group"), "one of batch, layer"),
        (lambda: PairAttention(upsampling="area"), "nearest, bilinear"),
        (lambda: ReleasedPairAttention(lam_concat=True, lam_concat_value=True), "leave lam_concat_value out"),
        (lambda: PairAttention(k=-1.0), "k must be a finite number of at least 0"),
        (lambda: PairAttention().build(1), "cannot be reduced"),
        (lambda: MixBlock(8)(torch.rand(1, 6, 2, 2), torch.rand(1, 6, 2, 2), 0.5, (4, 4)), r"\(B, 8, h, w\)"),
        (lambda: AreaHinge(power=3), "power must be one of 1, 2"),
        (lambda: VarianceBonus(target=0.3), r"target must lie in \(0, 0.25\]"),
        (lambda: Sparsity(scope="pixel"), "one of sample, batch"),
    ],
)
def test_wrong_settings(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_settings_are_abstract() -> None:
    with pytest.raises(TypeError):
        BlockSettings()  # type: ignore[abstract]


@torch.no_grad()
def test_compiled_block() -> None:
    block = awake(PairAttention(lam_concat=True).build(8))
    a, b, lam = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4), torch.rand(2)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(a, b, lam, (8, 8)), block(a, b, lam, (8, 8)), rtol=1e-5, atol=1e-5)


def test_block_is_adaptive_for_any_number() -> None:
    block = AdaptiveMask(8)
    for sources in (2, 4):
        assert block(torch.rand(2, sources, 8, 2, 2), torch.rand(1, sources), (4, 4)).shape == (2, sources, 4, 4)
