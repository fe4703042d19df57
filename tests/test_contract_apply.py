"""The contract of applying a plan: any buffer, layout, size and type, with gradients and without, images or ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mixwell as mw
import slow_plans
from cases import Case, each_case, mix
from mixwell import Plan
from mixwell.ops.pixels import LARGE_IMAGE
from plans import PLANS, same_pixels

SCALABLE = [name for name in PLANS if not name.startswith("moved")]  # which needs sizes that its cells divide
every_plan = pytest.mark.parametrize("name", PLANS)


def check_same(found: Tensor, expected: Tensor, plan: Plan) -> None:
    """Compare two ways to the same images: bit for bit where pixels are only copied."""
    if same_pixels(plan):
        assert found.equal(expected)
        return
    eps = 0.0 if expected.dtype == torch.uint8 else max(torch.finfo(expected.dtype).eps, 1e-7)
    # The ratio may be rounded to the images' type on one way and not on the other, and a byte to either neighbour.
    # Where images are scaled, a coordinate in pixels is rounded first: on long sides that decides.
    steps = 4 + (max(expected.shape[2:]) if plan.moves_pixels and eps < 1e-6 else 0)
    far = 1.0 if expected.dtype == torch.uint8 else steps * eps * float(expected.abs().max() + 1)
    torch.testing.assert_close(found.double(), expected.double(), rtol=4 * eps, atol=far)


@each_case
@every_plan
def test_all_ways_agree(name: str, cases: list[Case], device: torch.device) -> None:
    """In place, into a buffer of either layout, from another layout and with gradients: the same images."""
    for case in cases:
        images = case.images(device)
        plan = PLANS[name](images)
        expected = plan._mix(images)
        assert expected.shape == images.shape and expected.dtype == images.dtype
        check_same(plan.apply(images), expected, plan)
        for like in (images, images.contiguous(), images.contiguous(memory_format=torch.channels_last)):
            buffer = torch.full_like(like, 77)
            assert plan.apply(images, buffer) is buffer
            check_same(buffer, expected, plan)
            assert buffer.stride() == torch.empty_like(like).stride()
            check_same(plan.apply(like), expected, plan)
        same = images.clone()
        assert plan.apply(same, out=same) is same
        check_same(same, expected, plan)
        strided = case._replace(layout="strided").images(device)
        plan.apply(strided, out=strided)
        check_same(strided, expected, plan)


def test_large_and_small_images_are_met() -> None:
    """The cases lie on both sides of the size where the way of working changes."""
    for dtype in (torch.float32, torch.uint8):
        sizes = [torch.empty(case.shape[1:], dtype=dtype).nbytes for case in each_case.args[1][0]]
        assert min(sizes) < LARGE_IMAGE < max(sizes)


class Allocations(TorchDispatchMode):
    """Notes the largest tensor that an operation makes anew."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known, self.largest = {tensor.untyped_storage().data_ptr() for tensor in known}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and look at its result."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in self.known:
            self.largest = max(self.largest, result.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("in_place", [False, True], ids=["buffer", "in place"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(
    "policy",
    [mw.MixUp(), mw.MixUp(scope="sample"), mw.CutMix(), mw.CutMix(scope="sample"), mw.FMix(), mw.ResizeMix()],
    ids=repr,
)
def test_a_buffer_saves_the_allocation(policy: mw.Policy, layout: str, in_place: bool) -> None:
    """With ``out=`` no memory of the size of a batch of large images is taken."""
    images = Case((8, 3, 160, 160), torch.float32, layout).images()
    plan = mix(policy, images).plan
    buffer = images if in_place else torch.empty_like(images)
    with Allocations(images) as fresh:
        plan.apply(images)
    with Allocations(images, buffer) as reused:
        plan.apply(images, out=buffer)
    assert fresh.largest >= images.nbytes > 2 * reused.largest


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
@every_plan
def test_gradient_flows(name: str, layout: str, device: torch.device) -> None:
    """Values with gradients are those without, and the gradient is the transposed mixing: <mix(v), r> = <v, grad>."""
    case = Case((4, 3, 12, 9), torch.float64, layout)
    images = case.images(device)
    plan = PLANS[name](images)
    leaf = images.clone().requires_grad_()
    mixed = plan.apply(leaf)
    torch.testing.assert_close(mixed, plan.apply(images), rtol=1e-6, atol=1e-6)
    if layout != "strided":
        assert mixed.stride() == leaf.stride()
    towards = torch.randn_like(images)
    (gradient,) = torch.autograd.grad((mixed * towards).sum(), leaf)
    probe = torch.randn_like(images)
    torch.testing.assert_close((gradient * probe).sum(), (plan.apply(probe) * towards).sum(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert not plan.apply(leaf).requires_grad
    buffer = torch.empty_like(images)
    assert plan.apply(leaf, out=buffer).requires_grad


def test_gradient_reaches_ratio_and_mask(device: torch.device) -> None:
    """A ratio or a mask that is learned gets a gradient, from pixels and from weights."""
    images = Case((4, 3, 8, 8), torch.float32, "contiguous").images(device)
    partner = torch.tensor([1, 2, 3, 0], device=device)
    lam = torch.full((4,), 0.3, device=device, requires_grad=True)
    mask = torch.full((4, 1, 4, 4), 0.3, device=device, requires_grad=True)
    for learned, plan in (
        (lam, mw.BlendPlan(mw.Pairs(partner, lam, (8, 8)))),
        (mask, mw.MaskPlan(mw.Pairs(partner, lam.detach(), (8, 8)), mask)),
    ):
        (gradient,) = torch.autograd.grad(plan.apply(images).square().sum(), learned, retain_graph=True)
        assert bool((gradient != 0).all())
        (gradient,) = torch.autograd.grad(plan.weights[:, 0].sum(), learned)
        torch.testing.assert_close(gradient.sum(), torch.tensor(4.0, device=device))


@every_plan
def test_second_view(name: str, device: torch.device) -> None:
    """A plan does the same to other images: those of a second view, of other types and channels."""
    case = Case((4, 3, 12, 9), torch.float32, "contiguous")
    plan = PLANS[name](case.images(device))
    for other in (case, case._replace(shape=(4, 1, 12, 9)), case._replace(dtype=torch.uint8)):
        view = other.images(device, seed=8)
        found, expected = plan.apply(view).cpu().double(), slow_plans.of_plan(plan.to("cpu"), view.cpu()).images
        torch.testing.assert_close(found, expected, rtol=0, atol=0.5001 if view.dtype == torch.uint8 else 1e-5)


@pytest.mark.parametrize("name", SCALABLE)
def test_other_size(name: str, device: torch.device) -> None:
    """On images twice as large a plan does the same at twice the size; elsewhere shares and pixels stay together."""
    case = Case((4, 2, 12, 10), torch.float32, "contiguous")
    images = case.images(device)
    plan = PLANS[name](images)
    twice = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    inner = (plan, *getattr(plan, "plans", ()))
    masks = [(each, getattr(each, "mask", getattr(each, "shares", None))) for each in inner]
    uneven = any(mask is not None and tuple(mask.shape[2:]) != each.size for each, mask in masks)
    if not uneven:
        assert plan.share((24, 20)).equal(plan.share((12, 10)).repeat_interleave(2, 2).repeat_interleave(2, 3))
    if not (plan.moves_pixels or uneven):
        mixed = plan.apply(images).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(plan.apply(twice), mixed, rtol=0, atol=1e-6)
    for size in ((7, 31), (200, 150)):
        other = case._replace(shape=(4, 2, *size)).images(device)
        mixed, share = plan.apply(other), plan.share(size)
        kept = (share[:, :1] == 1).expand_as(other)
        assert mixed[kept].equal(other[kept])
        values = other[plan.sources].amin((1, 3, 4)), other[plan.sources].amax((1, 3, 4))
        torch.testing.assert_close(mixed, mixed.clamp(*(bound[:, :, None, None] for bound in values)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.bool], ids=str)
@every_plan
def test_segmentation(name: str, dtype: torch.dtype, device: torch.device) -> None:
    """Maps of class ids take each pixel from the source that has most of it, and no id is made up."""
    images = Case((4, 3, 12, 9), torch.float32, "contiguous").images(device)
    plan = PLANS[name](images)
    ids = torch.randint(0, 2 if dtype == torch.bool else 200, (4, 12, 9), device=device).to(dtype)
    found = plan.apply_segmentation(ids)
    expected = slow_plans.of_plan(plan.to("cpu"), ids[:, None].cpu(), winner=True).images[:, 0]
    assert found.dtype == dtype and found.cpu().double().equal(expected)
    assert plan.apply_segmentation(ids[:, None]).equal(found[:, None])
    larger = torch.randint(0, 200, (4, 24, 36), device=device)
    for row, mixed in enumerate(plan.apply_segmentation(larger)):
        assert set(mixed.unique().tolist()) <= set(larger[plan.sources[row]].unique().tolist())


def test_call_with_a_buffer(device: torch.device) -> None:
    """The call takes the same buffer as the plan, so that a loop takes no new memory."""
    images = Case((4, 3, 12, 9), torch.float32, "contiguous").images(device)
    buffer = torch.empty_like(images)
    assert mix(mw.CutMix(), images, out=buffer).images is buffer
    assert buffer.equal(mix(mw.CutMix(), images).images)
