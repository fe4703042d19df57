"""Adapters for the policies whose masks are smooth, regular or follow saliency."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

import mixwell as mw
from golden_cases import centre_of, mixed_by, pairs_of
from mixwell.ops import boxes as box_ops
from mixwell.ops import grid
from mixwell.ops.cells import kept_cells, top_cells
from mixwell.ops.gaussian import bump
from mixwell.policies.snapmix import semantic_share, snap
from mixwell.saliency.activation import class_map, reduced


def _soft_outputs(plan: mw.MaskPlan, case, name: str = "mask_b"):
    mixed = mixed_by(plan, case.inputs["y"], case.inputs["x"])
    k = 1 if name == "mask_b" else 0
    share = plan.share(plan.size)[:, k : k + 1]
    share = share[: len(case.expected[name])] if name in case.expected else share
    return {name: share, "mixed": mixed.images, "y_b": mixed.labels[:, 1], "lam_a": mixed.weights[0, 0]}


def smoothmix(case):
    pairs = pairs_of(case, 0.5)
    middle = torch.tensor([[(side - 1) / 2 for side in pairs.size]], dtype=torch.float64)
    centre = torch.stack((case.draws["off_row"], case.draws["off_col"])).reshape(1, 2) + middle
    sigma = case.draws["sigma"].reshape(1, 1).expand(1, 2)
    return _soft_outputs(mw.MaskPlan(pairs, 1 - bump(centre, sigma, pairs.size)[:, None]), case)


def gridmix(case):
    draw = {name: value.reshape(1) for name, value in case.draws.items() if name != "perm"}
    pairs = pairs_of(case, draw["lam"])
    crop = grid.grid_crop(draw["cut_area"], draw["cut_aspect"], pairs.size, clamp=True)
    where = torch.stack((draw["u_row"], draw["u_col"]), 1)
    inside = grid.holes(draw["lam"], crop, where, draw["n_holes"], draw["hole_aspect"], pairs.size)
    return _soft_outputs(mw.MaskPlan(pairs, ~inside[:, None]), case)


def attentivemix(case):
    maps = reduced(case.inputs["features"], "mean")
    pairs = pairs_of(case, case.draws["lam"])
    kept = kept_cells(pairs.lam, maps.shape[1] * maps.shape[2], case.params["top_k"])
    return _soft_outputs(mw.MaskPlan(pairs, top_cells(maps, kept)[:, None]), case, "mask_a")


def guidedmix(case):
    x = case.inputs["x"]
    if case.params.get("mode") == "spectral_residual":
        return {"saliency_sr": mw.SpectralResidual()(None, x, torch.zeros(len(x)))}
    p, y = case.params, case.inputs["y"]
    batch = mw.Batch(x, y, saliency=case.inputs["saliency"])
    policy = mw.GuidedMix(blur=p["blur"], sigma=p["sigma"])
    out = {}
    for suffix, pairing in (("", mw.Given(case.draws["perm"].tolist())), ("_greedy", mw.Greedy())):
        mixed = replace(policy, pairing=pairing)(x, y, saliency=batch.saliency)
        out |= {f"mixed{suffix}": mixed.images, f"lam_a{suffix}": mixed.weights[:, 0]}
        if pairing == mw.Greedy():
            out["pair_greedy"] = mixed.plan.sources[:, 1]
        else:
            out |= {
                "mask_a": mixed.plan.share(batch.size)[:, 0],
                "lam_b": mixed.weights[:, 1],
                "y_b": mixed.labels[:, 1],
            }
    return out | {
        "sal_norm": policy.guidance(batch.saliency, batch.size) * math.prod(batch.size)
    }  # stored in other units


def snapmix(case):
    x, y, d = case.inputs["x"], case.inputs["y"], case.draws
    size = tuple(x.shape[2:])
    raw = class_map(case.inputs["feat"], case.inputs["fc_weight"], case.inputs["fc_bias"], y)
    shares = semantic_share(raw, size)
    batch = mw.Batch(x, y, saliency=shares)
    pairs = mw.Pairs(d["perm"], d["lam1"].reshape(1), size, batch=batch)
    boxes, source_boxes = (
        box_ops.place(box_ops.clipped_around, size, box_ops.cut_side(lam.reshape(1)), centre)
        for lam, centre in (
            (d["lam1"], centre_of(case, "row1", "col1")),
            (d["lam2"], centre_of(case, "row2", "col2")),
        )
    )
    plan = snap(pairs, boxes, source_boxes, y == y[d["perm"]])
    mixed = mixed_by(plan, y, x)
    return {
        "box_a": boxes[0],
        "box_b": source_boxes[0],
        "spm": shares * math.prod(size),  # stored in other units
        "mixed": mixed.images,
        "y_b": mixed.labels[:, 1],
        "lam_a": mixed.weights[:, 0],
        "lam_b": mixed.weights[:, 1],
    }


ADAPTERS = {f.__name__: f for f in (smoothmix, gridmix, attentivemix, guidedmix, snapmix)}
