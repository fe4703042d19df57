"""Plans of every kind for any images: what the policies draw, and by hand what none of them draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from cases import mix
from catalogue import POLICIES
from mixwell import BlendPlan, BoxPlan, MaskPlan, Pairs, PatchPlan, Plan, SharePlan


def pairs_of(images: Tensor, partners: int = 1, once: bool = False) -> Pairs:
    """Make pairs with drawn partners and ratios."""
    b = len(images)
    partner = torch.stack([torch.randperm(b, device=images.device) for _ in range(partners)], 1)
    lam = torch.rand(1 if once else b, device=images.device)
    return Pairs(partner[:, 0] if partners == 1 else partner, lam, (images.shape[2], images.shape[3]))


def boxes_in(images: Tensor, *shape: int) -> Tensor:
    """Draw boxes, some of them empty."""
    device, (height, width) = images.device, images.shape[2:]
    rows = (torch.rand(*shape, 2, device=device) * (height + 1)).long().sort(-1).values
    columns = (torch.rand(*shape, 2, device=device) * (width + 1)).long().sort(-1).values
    return torch.cat((rows, columns), -1)


def several_boxes(images: Tensor) -> Plan:
    """Paste two images, one over the other."""
    return BoxPlan(pairs_of(images, 2), boxes_in(images, len(images), 2))


def several_scaled_boxes(images: Tensor, interpolation: str = "nearest") -> Plan:
    """Paste parts of three images, scaled; sources are never empty, as torch cannot scale nothing."""
    source = boxes_in(images, len(images), 3)
    source[..., 0::2] = source[..., 0::2] // 2
    source[..., 1::2] = source[..., 0::2] + 1 + source[..., 1::2] // 2
    source[..., 1].clamp_(max=images.shape[2])
    source[..., 3].clamp_(max=images.shape[3])
    return BoxPlan(pairs_of(images, 3), boxes_in(images, len(images), 3), source, interpolation)


def one_scaled_box(images: Tensor) -> Plan:
    """Paste one part of the partner, the same for all."""
    height, width = images.shape[2:]
    source = torch.tensor([[height // 3, height, 0, (width + 1) // 2]], device=images.device)
    return BoxPlan(pairs_of(images, once=True), boxes_in(images, 1), source, "area")


def empty_box(images: Tensor) -> Plan:
    """Paste nothing."""
    return BoxPlan(pairs_of(images), torch.zeros(1, 4, dtype=torch.int64, device=images.device))


def coarse_mask(images: Tensor, once: bool, hard: bool) -> Plan:
    """Deal cells that do not divide the image evenly."""
    height, width = (max(1, side // 3) for side in images.shape[2:])
    mask = torch.rand(1 if once else len(images), 1, height, width, device=images.device)
    return MaskPlan(pairs_of(images, once=once), mask > 0.5 if hard else mask)


def fine_mask(images: Tensor, once: bool, hard: bool) -> Plan:
    """Give every pixel its own share."""
    mask = torch.rand(1 if once else len(images), 1, *images.shape[2:], device=images.device)
    return MaskPlan(pairs_of(images), mask > 0.5 if hard else mask)


def moved_cells(images: Tensor, hard: bool) -> Plan:
    """Mask images whose cells have been moved."""
    cells = next(n for n in (4, 3, 2, 1) if images.shape[2] % n == images.shape[3] % n == 0)
    moves = torch.rand(len(images), 2, cells**2, device=images.device).argsort(2)
    mask = torch.rand(len(images), 1, cells, cells, device=images.device)
    return PatchPlan(pairs_of(images), mask > 0.5 if hard else mask, moves)


def shares_of_three(images: Tensor, hard: bool) -> Plan:
    """Give every cell shares of three images, or one of them, as mosaics do."""
    rows, (height, width) = len(images), images.shape[2:]
    shares = torch.rand(rows, 3, max(1, height // 2), max(1, width // 3), device=images.device)
    shares = torch.nn.functional.one_hot(shares.argmax(1), 3).movedim(3, 1).float() if hard else shares.softmax(1)
    return SharePlan(pairs_of(images, 2), shares)


MAKERS: dict[str, Callable[[Tensor], Plan]] = {
    "blend": lambda images: BlendPlan(pairs_of(images)),
    "blend, once": lambda images: BlendPlan(pairs_of(images, once=True)),
    "several boxes": several_boxes,
    "several scaled boxes": several_scaled_boxes,
    "several scaled boxes, bilinear": partial(several_scaled_boxes, interpolation="bilinear"),
    "one scaled box": one_scaled_box,
    "empty box": empty_box,
    "shares of three": partial(shares_of_three, hard=False),
    "mosaic": partial(shares_of_three, hard=True),
    "moved cells": partial(moved_cells, hard=True),
    "moved cells, soft": partial(moved_cells, hard=False),
}
for make in (coarse_mask, fine_mask):
    for once in (False, True):
        for hard in (False, True):
            name = f"{make.__name__.replace('_', ' ')}{', once' * once}{', soft' * (not hard)}"
            MAKERS[name] = partial(make, once=once, hard=hard)


def by_hand(images: Tensor, name: str) -> Plan:
    """Make a plan from the same random numbers every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return MAKERS[name](images)


PLANS: dict[str, Callable[[Tensor], Plan]] = {name: partial(by_hand, name=name) for name in MAKERS} | {
    repr(policy): lambda images, policy=policy: mix(policy, images).plan for policy in POLICIES
}


def same_pixels(plan: Plan) -> bool:
    """Tell whether the plan only copies pixels, so that all ways of doing it agree bit for bit."""
    inner = getattr(plan, "plans", None)
    if inner is not None:
        return all(same_pixels(each) for each in inner)
    if isinstance(plan, BoxPlan):
        return plan.source_boxes is None or plan.interpolation == "nearest"
    mask = getattr(plan, "mask", getattr(plan, "shares", plan.lam))
    return bool(((mask == 0) | (mask == 1)).all())
