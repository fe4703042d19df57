"""Adapters for attention labels and the decoupled loss."""

from __future__ import annotations

import torch

import mixwell as mw
from mixwell.labels import AttentionShare, View
from mixwell.losses.decoupled import DecoupledCrossEntropy
from mixwell.targets import ExponentialRescale, PowerRescale


def transmix(case):
    attention, mask = case.inputs["attn"], case.inputs["mask_b"]
    rows, grid = len(attention), case.params["patch_shape"]
    pairs = mw.Pairs(torch.arange(rows), torch.ones(1), tuple(mask.shape[2:]))
    plan = mw.MaskPlan(pairs, mask == 0)
    area = case.inputs["lam0"].expand(rows)
    mixed = mw.MixedBatch(torch.empty(rows), torch.zeros(rows, 2).long(), torch.stack((area, 1 - area), 1), plan)
    seen = attention.mean(1)[:, 0, 1:].unflatten(1, grid)
    return {"lam_a": AttentionShare(area=case.params["ratio"], nearest=True)(mixed, View(attention=seen))[:, 0]}


def decoupled_loss(case):
    p, logits = case.params, case.inputs["logits"].clone().requires_grad_()
    labels, lam = torch.stack((case.inputs["y_a"], case.inputs["y_b"]), 1), case.draws["lam"].float().reshape(1)
    plan = mw.BlendPlan(mw.Pairs(torch.arange(len(labels)), lam, (1, 1)))
    mixed = mw.MixedBatch(torch.empty(0), labels, plan.weights, plan)
    rescale = {
        "none": lambda: None,
        "pow": lambda: PowerRescale(threshold=p["lam_thr"], exponent=p["lam_idx"]),
        "exp": lambda: ExponentialRescale(threshold=p["lam_thr"], base=p["lam_idx"]),
    }[p["lam_scale_mode"]]()
    loss = DecoupledCrossEntropy(eta=p["eta"], keep=p["mode"], threshold=p["thr"], rescale=rescale)
    value = loss(logits, mixed)
    (grad,) = torch.autograd.grad(value, logits)
    return {"loss_per_formula": value.detach(), "grad": grad, "eta": loss.term_weights(mixed.weights)[0]}


ADAPTERS = {f.__name__: f for f in (transmix, decoupled_loss)}
