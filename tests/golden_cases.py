"""What the adapters of the golden vectors share: a case's pairs, plans and usual outputs."""

from __future__ import annotations

import torch
from torch import Tensor

import mixwell as mw


def pairs_of(case, lam, partner=None) -> mw.Pairs:
    x = case.inputs["x"]
    partner = case.draws["perm"] if partner is None else partner
    lam = torch.as_tensor(lam).reshape(-1)
    return mw.Pairs(partner, lam, (x.shape[2], x.shape[3]))


def mixed_by(plan: mw.Plan, labels: Tensor, images: Tensor | None = None) -> mw.MixedBatch:
    return mw.MixedBatch(None if images is None else plan.apply(images), labels[plan.sources], plan.weights, plan)


def centre_of(case, row: str, column: str) -> Tensor:
    return torch.stack((case.draws[row], case.draws[column])).reshape(1, 2)


def box_outputs(plan: mw.BoxPlan, case):
    mixed = mixed_by(plan, case.inputs["y"], case.inputs["x"])
    return {
        "box": plan.boxes[0, 0],
        "mask_b": plan.share(plan.size)[:1, 1:],
        "mixed": mixed.images,
        "y_b": mixed.labels[:, 1],
        "lam_a": mixed.weights[0, 0],
    }
