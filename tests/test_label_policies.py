"""Label policies from activation, objects and attention, beside loops over pixels and tokens."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import mixwell as mw
from cases import follows_pixels
from catalogue import POLICIES
from mixwell.labels import (
    ActivationShare,
    AttentionShare,
    LUMixShare,
    ObjectShare,
    PixelShare,
    ProgressiveAttentionShare,
    SaliencyShare,
    TokenLabelAlignment,
    View,
)

SIDE, ROWS = 32, 6


def mixed_by(policy: mw.BatchPolicy, seed: int = 0) -> tuple[mw.MixedBatch, Tensor]:
    """Mix a batch of images with content that saliency can find."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(ROWS, 3, SIDE, SIDE, generator=generator)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, 2), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, ROWS)
    )
    return policy(images, torch.arange(ROWS), model=model, generator=generator), images


def by_pixels() -> list[mw.BatchPolicy]:
    """Return the policies whose label weights are shares of pixels."""
    return [policy for policy in POLICIES if follows_pixels(policy)]


every_policy = pytest.mark.parametrize("policy", by_pixels(), ids=repr)


def visible_by_loop(mixed: mw.MixedBatch, maps: Tensor) -> Tensor:
    """Send every pixel's value through the plan alone, and add up what arrives of each source."""
    plan, found = mixed.plan, torch.zeros_like(mixed.weights)
    for k in range(plan.sources.shape[1]):
        only = plan._source(maps[:, None], k)[:, 0]
        for row in range(len(plan)):
            share = plan.share(plan.size)[row if len(plan.share(plan.size)) > 1 else 0, k]
            found[row, k] = sum(float(share[y, x]) * float(only[row, y, x]) for y in range(SIDE) for x in range(SIDE))
    return found


@pytest.mark.parametrize(
    "policy", [mw.CutMix(scope="sample"), mw.ResizeMix(scope="sample"), mw.MixUp(), mw.FMix()], ids=repr
)
def test_visible_is_a_sum_over_pixels(policy: mw.BatchPolicy) -> None:
    mixed, _ = mixed_by(policy)
    maps = torch.rand(ROWS, SIDE, SIDE)
    assert mixed.plan.visible(maps) == pytest.approx(visible_by_loop(mixed, maps), rel=1e-4, abs=1e-4)


@every_policy
def test_visible_adds_up_to_what_apply_shows(policy: mw.BatchPolicy) -> None:
    """Whatever moves or blends the pixels: the sources' visible parts together are the mixed map."""
    mixed, _ = mixed_by(policy)
    maps = torch.rand(ROWS, 1, SIDE, SIDE)
    assert mixed.plan.visible(maps).sum(1) == pytest.approx(mixed.plan.apply(maps).sum((1, 2, 3)), rel=1e-4)


@every_policy
def test_even_evidence_gives_the_pixel_share(policy: mw.BatchPolicy) -> None:
    """Constant activation, saliency or attention says no more than the area."""
    mixed, _ = mixed_by(policy)
    pixels = mixed.plan.share(mixed.plan.size).mean((2, 3)).expand_as(mixed.weights)
    for label, view in (
        (ActivationShare(), View(clean_features=torch.ones(ROWS, 4, 4, 4))),
        (AttentionShare(area=0.0), View(attention=torch.ones(ROWS, 4, 4))),
        (ObjectShare(), View(masks=torch.ones(ROWS, SIDE, SIDE))),
        (ObjectShare(fraction=False), View(boxes=torch.tensor([[0.0, 0.0, SIDE, SIDE]]).expand(ROWS, 4))),
    ):
        assert label(mixed, view) == pytest.approx(pixels, abs=2e-3), label


@every_policy
def test_weights_are_a_distribution(policy: mw.BatchPolicy) -> None:
    mixed, images = mixed_by(policy)
    torch.manual_seed(1)
    view = View(
        logits=torch.randn(ROWS, ROWS),
        clean_features=torch.randn(ROWS, 8, 4, 4),
        attention=torch.rand(ROWS, 4, 4),
        attentions=tuple(torch.rand(ROWS, 17, 17).softmax(2) for _ in range(3)),
        images=images,
        labels=torch.arange(ROWS),
        boxes=torch.tensor([[4.0, 4.0, 20.0, 28.0]]).expand(ROWS, 4),
    )
    two = mixed.weights.shape[1] == 2
    for label in (
        ActivationShare(),
        AttentionShare(),
        ProgressiveAttentionShare(),
        TokenLabelAlignment(),
        ObjectShare(),
        SaliencyShare(mw.SpectralResidual()),
        *([LUMixShare()] if two else []),
    ):
        weights = label(mixed, view)
        assert weights.shape == mixed.weights.shape and weights.dtype == torch.float32, label
        assert bool((weights >= -1e-6).all()) and not weights.requires_grad, label
        assert weights.sum(1) == pytest.approx(mixed.weights.sum(1), abs=1e-5), label


@pytest.mark.parametrize("grid", [(2, 2), (4, 4), (8, 8), (16, 16), (2, 4), (32, 32)])
@pytest.mark.parametrize(
    "policy", [mw.CutMix(scope="sample"), mw.MixUp(), mw.ResizeMix(), mw.FMix(soft=0.2), mw.GridMix(), mw.SmoothMix()]
)
def test_even_attention_gives_the_area(policy: mw.BatchPolicy, grid: tuple[int, int]) -> None:
    """For every label policy that reads attention, with and without a class token."""
    mixed, _ = mixed_by(policy)
    area = mixed.plan.share(mixed.plan.size).mean((2, 3)).expand_as(mixed.weights)
    mixed = mixed.with_weights(area)
    view = View(logits=torch.randn(ROWS, ROWS), attention=torch.full((ROWS, *grid), 0.1))
    for label in (AttentionShare(area=0.0), AttentionShare(area=0.7), ProgressiveAttentionShare()):
        assert label(mixed, view) == pytest.approx(area, abs=1e-5), label
    if grid[0] != grid[1] or grid == (32, 32):
        return
    for extra in (0, 1, 2):
        tokens = extra + grid[0] * grid[1]
        even = tuple(torch.full((ROWS, tokens, tokens), 1 / tokens) for _ in range(3))
        assert TokenLabelAlignment()(mixed, View(attentions=even)) == pytest.approx(area, abs=1e-5), extra


def test_only_the_visible_half_counts() -> None:
    """All of the anchor's activation lies in the left half, which the partner covers: the anchor gets no label."""
    images, labels = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    pairs = mw.Pairs(torch.tensor([1, 0]), torch.full((1,), 0.5), (8, 8))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 4:] = 1  # the anchor keeps its right half
    plan = mw.MaskPlan(pairs, mask)
    mixed = mw.MixedBatch(plan.apply(images), plan.source_labels(labels), plan.weights, plan)
    features = torch.zeros(2, 3, 8, 8)
    features[..., :4] = 1
    assert ActivationShare()(mixed, View(clean_features=features)).tolist() == [[0, 1], [0, 1]]
    attention = torch.zeros(2, 8, 8)
    attention[..., 4:] = 1
    assert AttentionShare(area=0.0)(mixed, View(attention=attention)).tolist() == [[1, 0], [1, 0]]
    assert AttentionShare(area=0.5)(mixed, View(attention=attention)).tolist() == [[0.75, 0.25], [0.75, 0.25]]


def test_activation_by_hand() -> None:
    """Squared lengths, divided by their sum per image, moved by the plan, compared with a plain computation."""
    mixed, _ = mixed_by(mw.ResizeMix(scope="sample"))
    features = torch.randn(ROWS, 5, 4, 4)
    for power in (1.0, 2.0):
        maps = F.interpolate((features**2).sum(1, keepdim=True) ** (power / 2), (SIDE, SIDE), mode="bilinear")
        maps = maps / maps.sum((1, 2, 3), keepdim=True)
        seen_a = (mixed.plan.share((SIDE, SIDE))[:, :1] * maps).sum((1, 2, 3))
        seen_b = mixed.plan.apply(maps).sum((1, 2, 3)) - seen_a
        wanted = seen_a / (seen_a + seen_b)
        assert ActivationShare(power=power)(mixed, View(clean_features=features))[:, 0] == pytest.approx(
            wanted, abs=1e-5
        )


@pytest.mark.parametrize("fraction", [True, False])
def test_objects_by_pixel(fraction: bool) -> None:
    """Boxes at whole pixels equal masks, and both equal a count of pixels."""
    mixed, _ = mixed_by(mw.CutMix(scope="sample"))
    corners = torch.tensor(
        [[x, y, x + w, y + h] for x, y, w, h in [(0, 0, 9, 32), (3, 4, 20, 8), (16, 16, 16, 16)] * 2]
    )
    masks = torch.zeros(ROWS, SIDE, SIDE)
    for row, (left, top, right, bottom) in enumerate(corners.tolist()):
        masks[row, top:bottom, left:right] = 1
    share, partner = mixed.plan.share((SIDE, SIDE)), mixed.plan.partners[0]
    seen = torch.stack([(share[:, 0] * masks).sum((1, 2)), (share[:, 1] * masks[partner]).sum((1, 2))], 1)
    if fraction:
        seen = seen / torch.stack([masks.sum((1, 2)), masks[partner].sum((1, 2))], 1)
    none = seen.sum(1, keepdim=True) == 0
    wanted = torch.where(none, mixed.weights, seen / seen.sum(1, keepdim=True).clamp_min(1e-9))
    label = ObjectShare(fraction=fraction)
    assert label(mixed, masks=masks) == pytest.approx(wanted, abs=1e-5)
    assert label(mixed, boxes=corners) == pytest.approx(wanted, abs=1e-5)
    several = torch.cat([corners[:, None], torch.zeros(ROWS, 2, 4)], 1)
    assert label(mixed, boxes=several) == pytest.approx(wanted, abs=1e-5)


def test_alignment_equals_labels_over_all_classes() -> None:
    """Two columns per token give what a label over every class gives, smoothing included."""
    mixed, _ = mixed_by(mw.CutMix(scope="sample"))
    torch.manual_seed(0)
    attentions = tuple(torch.randn(ROWS, 18, 18, dtype=torch.float64).softmax(2) for _ in range(4))
    share = F.adaptive_avg_pool2d(mixed.plan.share((SIDE, SIDE)).double(), 4).flatten(2).transpose(1, 2)
    dense = F.one_hot(mixed.labels, 10).double() * 0.9 + 0.01  # (B, 2, classes)
    tokens = torch.cat([mixed.weights.double()[:, None].expand(-1, 2, -1), share], 1) @ dense
    for attention in attentions:
        tokens = (tokens + attention @ tokens) / 2
    weights = TokenLabelAlignment()(mixed, View(attentions=attentions))
    assert (weights.double()[:, None] @ dense)[:, 0] == pytest.approx(tokens[:, 0], abs=1e-6)


def test_progressive_attention_moves_from_area_to_attention() -> None:
    mixed, _ = mixed_by(mw.CutMix(scope="sample"))
    attention = torch.rand(ROWS, 8, 8)
    attended = AttentionShare(area=0.0)(mixed, View(attention=attention))
    target = mixed.targets(10, 0.1)
    right = ProgressiveAttentionShare()(mixed, View(logits=target.clamp_min(1e-9).log(), attention=attention))
    assert right == pytest.approx(attended, abs=1e-5)  # a prediction equal to the target trusts the attention
    logits = torch.randn(ROWS, 10)
    trust = F.cosine_similarity(target, logits.softmax(1), dim=1)[:, None]
    between = ProgressiveAttentionShare()(mixed, View(logits=logits, attention=attention))
    assert between == pytest.approx(trust * attended + (1 - trust) * mixed.weights, abs=1e-6)


def test_lumix_terms() -> None:
    mixed, _ = mixed_by(mw.CutMix(scope="sample"))
    logits = torch.randn(ROWS, 10)
    p = logits.softmax(1).gather(1, mixed.labels)
    predicted = LUMixShare(random=0.0, predicted=1.0)(mixed, View(logits=logits))
    assert predicted == pytest.approx(p / p.sum(1, keepdim=True), abs=1e-6)
    dense = mixed.with_weights(mixed.weights)
    dense.labels = F.one_hot(mixed.labels, 10).float()
    assert LUMixShare(random=0.0, predicted=1.0)(dense, View(logits=logits)) == pytest.approx(predicted, abs=1e-5)
    torch.manual_seed(0)
    drawn = LUMixShare(random=1.0, predicted=0.0, alpha=0.5)(mixed, View(logits=logits))[:, 0]
    assert bool((drawn != mixed.weights[:, 0]).all()) and bool(((drawn >= 0) & (drawn <= 1)).all())


def test_saliency_share_unnormalized_is_the_visible_part_of_each_map() -> None:
    """TokenMix's scores: each source by the visible share of its own map."""
    mixed, images = mixed_by(mw.CutMix(scope="sample"))

    def source(model: object, images: Tensor, labels: Tensor) -> Tensor:
        return images.mean(1)

    class Mean(mw.Saliency):
        def __call__(self, model: object, images: Tensor, labels: Tensor) -> Tensor:
            return source(model, images, labels)

    label = SaliencyShare(Mean(), normalize=False)
    maps = images.mean(1) / images.mean(1).sum((1, 2), keepdim=True)
    got = label(mixed, View(images=images, labels=torch.arange(ROWS)))
    assert got == pytest.approx(mixed.plan.visible(maps), abs=1e-6)
    assert bool((got.sum(1) > 0).all()) and not math.isclose(float(got.sum()), ROWS)


def test_boxes_of_any_number_per_image() -> None:
    """A list, and rows filled up with zeros, are the union of the boxes: counted pixel by pixel."""
    mixed, _ = mixed_by(mw.CutMix(scope="sample"))
    lists = [[[0, 0, 9, 32], [4, 3, 20, 8]], [], [[1, 1, 2, 2]], [[0, 0, 32, 32], [5, 5, 6, 6]], [[8, 8, 40, 40]], []]
    masks = torch.zeros(ROWS, SIDE, SIDE, dtype=torch.bool)
    for row, boxes in enumerate(lists):
        for left, top, right, bottom in boxes:
            masks[row, top:bottom, left:right] = True
    each = [torch.tensor(boxes, dtype=torch.float32).view(-1, 4) for boxes in lists]
    padded = torch.nn.utils.rnn.pad_sequence(each, batch_first=True)
    for fraction in (True, False):
        label = ObjectShare(fraction=fraction)
        wanted = label(mixed, masks=masks)
        assert label(mixed, boxes=each) == pytest.approx(wanted, abs=1e-6)
        assert label(mixed, boxes=padded) == pytest.approx(wanted, abs=1e-6)
    nothing = [torch.zeros(0, 4)] * ROWS
    assert ObjectShare()(mixed, boxes=nothing) == pytest.approx(mixed.weights)


def test_settings_are_checked() -> None:
    for wrong in (
        lambda: ActivationShare(area=2.0),
        lambda: AttentionShare(area=-1.0),
        lambda: LUMixShare(random=0.8, predicted=0.8),
    ):
        with pytest.raises(ValueError, match="must"):
            wrong()
    assert ActivationShare(area=mw.Step({0.0: 1.0, 0.5: 0.0})).at(0.6) == ActivationShare()
    mixed, _ = mixed_by(mw.CutMix())
    start = ActivationShare(area=1.0)(mixed, View(clean_features=torch.rand(ROWS, 2, 4, 4)))
    assert start == pytest.approx(PixelShare()(mixed, View()), abs=1e-6)


def test_label_error_by_loop() -> None:
    """Differences to the visible share, counted image by image."""
    mixed, _ = mixed_by(mw.CutMix(scope="sample", alpha=1.0))
    masks = torch.zeros(ROWS, SIDE, SIDE)
    for row in range(ROWS):
        masks[row, row : row + 9, 2 * row : 2 * row + 5 + row] = 1
    share, rows = mixed.plan.share((SIDE, SIDE)), []
    for row, (a, b) in enumerate(mixed.plan.sources.tolist()):
        own, other = float((share[row, 0] * masks[a]).sum()), float((share[row, 1] * masks[b]).sum())
        if a == b or own + other == 0:
            continue
        own_part, other_part = own / float(masks[a].sum()), other / float(masks[b].sum())
        rows.append((float(mixed.weights[row, 0]), own / (own + other), own_part / (own_part + other_part)))
    area, fraction = mw.visible_objects(mixed.plan, masks)
    for visible, column in ((area, 1), (fraction, 2)):
        found = mw.label_error(mixed.weights[:, 0], visible)
        differences = [abs(each[0] - each[column]) for each in rows]
        assert int(found["images"]) == len(rows)
        assert float(found["error"]) == pytest.approx(sum(differences) / len(rows), abs=1e-5)
        assert float(found["large"]) == pytest.approx(sum(d > 0.3 for d in differences) / len(rows))
        wanted = torch.corrcoef(torch.tensor([[each[0] for each in rows], [each[column] for each in rows]]))[0, 1]
        assert float(found["correlation"]) == pytest.approx(float(wanted), abs=1e-4)
    with pytest.raises(ValueError, match="no image whose label"):
        mw.label_error(mixed.weights[:, 0], torch.full((ROWS,), math.nan))
