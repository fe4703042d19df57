"""One box worked out in plain numbers is the box that tensors give; what is drawn once is kept once."""

from __future__ import annotations

import math

import pytest
import torch

import mixwell as mw
from mixwell.ops import boxes
from mixwell.plan import Plan

RULES = (boxes.clipped, boxes.inside, boxes.shifted, boxes.clipped_around, boxes.shifted_around)


@pytest.mark.parametrize("size", [(32, 32), (10, 10), (33, 20), (1, 7)])
@pytest.mark.parametrize("odd", ["floor", "exact"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_plain_numbers_and_tensors_agree(rule: boxes.Rule, odd: str, size: tuple[int, int]) -> None:
    """The same ratios and places, alone and among others, give the same boxes, to the pixel."""
    dice = torch.Generator().manual_seed(0)
    lam = torch.cat((torch.rand(60, generator=dice), torch.tensor([k / 100 for k in range(101)])))
    where = torch.rand(len(lam), 2, generator=dice)
    if rule.__name__.endswith("around"):
        where = (where * torch.tensor(size)).long()
    side = boxes.cut_side(lam)
    assert isinstance(side, torch.Tensor)
    singles = [boxes.cut_side(one) for one in lam.split(1)]
    torch.testing.assert_close(
        torch.tensor(singles), side[:, 0], rtol=2e-7, atol=0
    )  # torch's root may miss the last bit
    together = boxes.place(rule, size, side, where, odd)
    alone = [boxes.place(rule, size, s, w, odd) for s, w in zip(side.flatten().tolist(), where.split(1), strict=True)]
    assert torch.cat(alone).equal(together)
    areas = [boxes.area_weights(box, size) for box in alone]
    torch.testing.assert_close(torch.cat(areas), boxes.area_weights(together, size), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("lam", "pixels"), [(0.36, 8), (0.51, 7), (0.19, 9), (0.75, 5)])
def test_a_ratio_of_hundredths_gives_whole_pixels(lam: float, pixels: int) -> None:
    """``10 * sqrt(1 - 0.36)`` is 8 pixels, although 0.36 is a little more in float32."""
    box = boxes.place(boxes.inside, (10, 10), boxes.cut_side(torch.tensor([lam])), torch.zeros(1, 2))
    assert box.tolist() == [[0, pixels, 0, pixels]]


def test_a_ratio_in_float64_stays_one() -> None:
    """Published code computes in float64, where ``20 * sqrt(1 - 0.91)`` is a little less than 6."""
    size, middle = (15, 20), torch.tensor([[7, 10]])
    for lam in (k / 100 for k in range(101)):
        side = boxes.cut_side(torch.tensor([lam], dtype=torch.float64))
        box = boxes.place(boxes.shifted_around, size, side, middle)
        assert (box[0, 1::2] - box[0, ::2]).tolist() == [int(length * math.sqrt(1 - lam)) for length in size]


@pytest.mark.parametrize("policy", [mw.CutMix(), mw.ResizeMix(), mw.FMix()], ids=repr)
def test_what_is_drawn_once_is_kept_once(policy: mw.Policy) -> None:
    """Saved and sent plans stay small; one whose rows were all written out is read as well."""
    images = torch.rand(6, 3, 16, 12)
    plan = policy.draw(images, torch.arange(6), generator=torch.Generator().manual_seed(0))
    state = plan.state_dict()
    drawn = [name for name in ("lam", "boxes", "source_boxes", "mask") if isinstance(state.get(name), torch.Tensor)]
    assert len(drawn) >= 2
    for name in drawn:
        assert state[name].shape[0] == 1 and getattr(plan, name).shape[0] == 6
        assert plan.to("cpu").state_dict()[name].shape[0] == 1
    long = Plan.from_state_dict(state | {name: getattr(plan, name).clone() for name in drawn})
    assert long.apply(images).equal(plan.apply(images)) and long.lam.equal(plan.lam)


def test_looking_at_sources_leaves_nothing_behind() -> None:
    """A look in inference mode does not spoil a later one that gradients pass through."""
    plan = mw.CutMix().draw(torch.rand(4, 3, 8, 8), torch.arange(4))
    with torch.inference_mode():
        seen = plan.sources
    values = torch.rand(4, requires_grad=True)
    values[plan.sources].sum().backward()
    assert seen.equal(plan.sources) and values.grad is not None and values.grad.sum() == 8


def test_a_plan_is_where_its_partners_are() -> None:
    """A ratio on the host does for images elsewhere; partners do not."""
    elsewhere = torch.arange(4, device="meta")
    plan = mw.BlendPlan(mw.Pairs(elsewhere, torch.full((1,), 0.5), (8, 8)))
    assert plan.apply(torch.empty(4, 3, 8, 8, device="meta")).device.type == plan.sources.device.type == "meta"
    with pytest.raises(ValueError, match=r"on meta, but the images are on cpu: use plan\.to\(\)"):
        plan.apply(torch.rand(4, 3, 8, 8))
    plan = mw.BlendPlan(mw.Pairs(torch.arange(4), torch.full((1,), 0.5, device="meta"), (8, 8)))
    with pytest.raises(ValueError, match="on cpu, but the images are on meta"):
        plan.apply(torch.empty(4, 3, 8, 8, device="meta"))


@pytest.mark.parametrize("policy", [mw.CutMix(), mw.ResizeMix(box="clip")], ids=repr)
def test_square_images_of_a_size_known_later(policy: mw.Policy) -> None:
    """Sides that are symbols when a policy is exported are sides all the same."""

    class Mix(torch.nn.Module):
        def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return policy(images, labels).images

    side = torch.export.Dim.AUTO
    given, shapes = (torch.rand(4, 3, 16, 16), torch.arange(4)), ({2: side, 3: side}, None)
    program = torch.export.export(Mix(), given, dynamic_shapes=shapes, strict=False)
    assert program.module()(*given).shape == (4, 3, 16, 16)
