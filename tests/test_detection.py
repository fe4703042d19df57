"""Bounding boxes under every plan, against a count of pixels in plain Python and against the mixed images."""

from __future__ import annotations

import pytest
import torch

import mixwell as mw
from cases import Case
from mixwell.plan import PatchPlan, mix_boxes
from plans import PLANS

ROWS, SIDE, EACH, LEAST = 6, 20, 3, 0.3137  # images, their side, boxes of each image, smallest visible share
Edges = tuple[float, float, float, float]  # left, top, right, bottom


def plan_of(plan: mw.Plan, row: int) -> mw.Plan:
    """Return the plan that a row follows."""
    while isinstance(plan, mw.ChoicePlan):
        plan = plan.plans[int(plan.choice[row])]
    return plan


def where(plan: mw.Plan, row: int, k: int, box: Edges) -> Edges:
    """Return where a box of source ``k`` is in the mixed image."""
    if not isinstance(plan, mw.BoxPlan) or plan.source_boxes is None or k == 0:
        return box
    top, bottom, left, right = plan.boxes[row, k - 1].tolist()
    up, down, first, last = plan.source_boxes[row, k - 1].tolist()
    wide, high = (right - left) / (last - first), (bottom - top) / (down - up)
    x0, y0, x1, y1 = box
    return (x0 - first) * wide + left, (y0 - up) * high + top, (x1 - first) * wide + left, (y1 - up) * high + top


def visible(box: Edges, share: list[list[float]]) -> tuple[Edges, float]:
    """Return the visible part of a box and its share of the box, pixel by pixel."""
    x0, y0, x1, y1 = box
    seen, parts = 0.0, []
    for y in range(SIDE):
        for x in range(SIDE):
            inner = max(x, x0), max(y, y0), min(x + 1, x1), min(y + 1, y1)
            if share[y][x] > 0 and inner[0] < inner[2] and inner[1] < inner[3]:
                seen += share[y][x] * (inner[2] - inner[0]) * (inner[3] - inner[1])
                parts.append(inner)
    if not parts:
        return box, 0.0
    lefts, tops, rights, bottoms = zip(*parts, strict=True)
    return (min(lefts), min(tops), max(rights), max(bottoms)), seen / ((x1 - x0) * (y1 - y0))


def drawn(name: str) -> tuple[mw.Plan, list[torch.Tensor]]:
    """Make a plan of this name and boxes of whole pixels."""
    low = torch.randint(0, 12, (ROWS, EACH, 2))
    boxes = torch.cat((low, low + torch.randint(1, 9, (ROWS, EACH, 2))), 2).float()
    return PLANS[name](Case((ROWS, 3, SIDE, SIDE), torch.float32, "contiguous").images()), list(boxes)


@pytest.mark.parametrize("name", PLANS)
def test_boxes_are_counted_pixel_by_pixel(name: str) -> None:
    """Every box is clipped to what the plan shows of it, weighted by that, and dropped below the threshold."""
    plan, boxes = drawn(name)
    if isinstance(plan, PatchPlan):
        with pytest.raises(ValueError, match="Bounding boxes cannot follow a PatchPlan, which moves cells"):
            mix_boxes(plan, boxes)
        return
    shares = plan.share((SIDE, SIDE))
    for row, found in enumerate(mix_boxes(plan, boxes, min_visible=LEAST)):
        own, sources, expected = plan_of(plan, row), plan.sources[row].tolist(), []
        for k, source in enumerate(sources):
            same = [j for j, other in enumerate(sources) if other == source]
            if not own.moves_pixels and same[0] != k:
                continue  # mixed with itself, an image shows its boxes once
            share = shares[row, [k] if own.moves_pixels else same].sum(0).tolist()
            for index, box in enumerate(boxes[source].tolist()):
                edges, weight = visible(where(own, row, k, tuple(box)), share)
                if weight >= LEAST:
                    expected.append((source, index, edges, weight))
        assert [e[:2] for e in expected] == list(zip(found.rows.tolist(), found.indices.tolist(), strict=True))
        edges, weights = (torch.tensor([e[k] for e in expected], dtype=torch.float32) for k in (2, 3))
        torch.testing.assert_close(found.boxes, edges.view(-1, 4), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.weights, weights, atol=1e-4, rtol=0)


def reach(name: str, plan: mw.Plan) -> float:
    """Return how far, in pixels, a painted object may be seen beyond its box: interpolation smears scaled images."""
    inner = [plan, *getattr(plan, "plans", ())]
    smears = any(getattr(each, "interpolation", "nearest") != "nearest" for each in inner)
    return 0.0 if not plan.moves_pixels else SIDE / 2 if smears else 1.0


@pytest.mark.parametrize("name", PLANS)
def test_boxes_masks_and_images_are_aligned(name: str) -> None:
    """An object painted into an image is seen in the mixed image, and in the mixed mask, where its box is."""
    plan, boxes = drawn(name)
    if isinstance(plan, PatchPlan):
        pytest.skip("moves cells: see above")
    mixed, share, far = mix_boxes(plan, boxes, min_visible=0.0), plan.share((SIDE, SIDE)), reach(name, plan)
    one_has_all = share.amax(1) == 1
    for source in range(ROWS):
        x0, y0, x1, y1 = boxes[source][0].int().tolist()
        painted = torch.zeros(ROWS, SIDE, SIDE)
        painted[source, y0:y1, x0:x1] = 1
        images, ids = plan.apply(painted[:, None])[:, 0], plan.apply_segmentation(painted.long())
        if not plan.moves_pixels:
            assert (ids == 1)[one_has_all].equal((images == 1)[one_has_all])
        for row, found in enumerate(mixed):
            here = [b for b, r, i in zip(found.boxes, found.rows, found.indices, strict=True) if (r, i) == (source, 0)]
            for seen in (images[row] > 1e-6, ids[row] == 1):
                assert here or not seen.any()
                if here and seen.any():
                    low, high = seen.nonzero().amin(0).flip(0), seen.nonzero().amax(0).flip(0) + 1
                    edges = torch.stack(here)
                    assert (low >= edges[:, :2].amin(0) - far).all() and (high <= edges[:, 2:].amax(0) + far).all()
            if here and not plan.moves_pixels:
                seen = (images[row] > 0).nonzero()
                assert here[0].tolist() == [*seen.amin(0).flip(0).tolist(), *(seen.amax(0).flip(0) + 1).tolist()]


def test_an_image_mixed_with_itself_shows_its_boxes_once() -> None:
    """Also where other rows of the batch are scaled."""
    policy = mw.OneOf([mw.MixUp(), mw.ResizeMix()], scope="sample", pairing=mw.Given([0, 1, 2, 3]))
    plan = policy.draw(torch.rand(4, 3, SIDE, SIDE), torch.arange(4))
    while plan.choice.sum() in (0, 4):
        plan = policy.draw(torch.rand(4, 3, SIDE, SIDE), torch.arange(4))
    for row, found in enumerate(mix_boxes(plan, [torch.tensor([[2.0, 2, 18, 18]])] * 4, min_visible=0.0)):
        blended = int(plan.choice[row]) == 0
        assert (len(found.boxes) == 1) == blended
        assert not blended or found.weights.tolist() == [1.0]
