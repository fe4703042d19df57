"""Adapters from PuzzleMix's golden vectors to the library: they hold no formula of their own."""

from __future__ import annotations

import torch

import mixwell as mw
from mixwell.integrations.scipy import exact_cut
from mixwell.ops.cells import on_grid, summing_to_one
from mixwell.ops.graphcut import energy, truncated
from mixwell.ops.puzzle import contrast, puzzle_costs, whole_costs
from mixwell.ops.transport import plan_matrix, proposals, staying, transport_costs


def _pairs(case) -> mw.Pairs:
    x = case.inputs["x"]
    return mw.Pairs(case.draws["perm"], case.draws["alpha"].reshape(1), (x.shape[2], x.shape[3]))


def _solved(case, saliency):
    p, partner, cells = case.params, case.draws["perm"], int(case.draws["block_num"])
    std = torch.tensor(p["std"]).view(-1, 1, 1)
    mean = torch.tensor(p["mean"]).view(-1, 1, 1)
    borders = contrast(case.inputs["x"] * std + mean, partner, cells, p["neigh_size"])
    pair = saliency, saliency[partner]
    costs = whole_costs(
        puzzle_costs(pair, borders, case.draws["alpha"].reshape(1), p["n_labels"], p["beta"], p["gamma"], p["eta"])
    )
    labels = exact_cut(costs, truncated(p["n_labels"]))
    return {
        "unary_cost": costs[0].flip(1).movedim(1, 3),  # label 0 there is all of the anchor
        "edge_v": costs[1],
        "edge_h": costs[2],
        "energy": energy(labels, costs, truncated(p["n_labels"])),
        "mask_block_solved": labels / (p["n_labels"] - 1),
    }


def _outputs(plan: mw.Plan, case):
    mixed = mw.MixedBatch(plan.apply(case.inputs["x"]), case.inputs["y"][plan.sources], plan.weights, plan)
    return {"mixed": mixed.images, "lam_a": mixed.weights[:, 0], "y_b": mixed.labels[:, 1]}


def puzzlemix_mask(case):
    saliency = summing_to_one(on_grid(case.inputs["saliency"], int(case.draws["block_num"])))
    plan = mw.MaskPlan(_pairs(case), case.inputs["mask_block"][:, None])
    return _solved(case, saliency) | _outputs(plan, case)


def puzzlemix_transport(case):
    mask, partner = case.inputs["mask_block"], case.draws["perm"]
    cells = int(case.draws["block_num"])
    saliency = summing_to_one(on_grid(case.inputs["saliency"], cells))
    taken = [
        proposals(transport_costs(maps, shown, case.params["t_eps"]), cells)
        for maps, shown in ((saliency, mask > 0), (saliency[partner], mask < 1))
    ]
    plan = mw.PatchPlan(_pairs(case), mask[:, None], torch.stack([staying(each) for each in taken], 1))
    plans = {"plan_a": plan_matrix(taken[0]), "plan_b": plan_matrix(taken[1])}
    return _solved(case, saliency) | _outputs(plan, case) | plans


ADAPTERS = {"puzzlemix_mask": puzzlemix_mask, "puzzlemix_transport": puzzlemix_transport}
