"""Adapters for losses, label variants and metrics."""

from __future__ import annotations

import torch

import mixwell as mw
from golden_cases import mixed_by
from mixwell.methods.sumix import normalised_uncertainty
from mixwell.targets import classy_vision_smoothing


def _two_labels(case, lam) -> mw.MixedBatch:
    """A batch known only by its labels and ratio, as the loss vectors are."""
    y_a, y_b = case.inputs["y_a"], case.inputs["y_b"]
    lam = torch.as_tensor(lam).expand(len(y_a))
    plan = mw.BlendPlan(mw.Pairs(torch.arange(len(y_a)), lam, (1, 1)))
    return mw.MixedBatch(torch.empty(0), torch.stack((y_a, y_b), 1), plan.weights, plan)


def sumix_loss(case):
    if case.id == "head_forward" or "feat" in case.inputs:
        return _sumix_head(case)
    y, perm = case.inputs["y"], case.draws["perm"]
    clean, logits = (case.inputs[k].clone().requires_grad_() for k in ("logits_clean", "logits_mix"))
    raw = [case.inputs[k].clone().requires_grad_() for k in ("raw_unc_clean", "raw_unc_mix") if k in case.inputs]
    clean_u, mixed_u = [normalised_uncertainty(r) for r in raw] if case.params["is_norm"] else (clean, logits)
    mixed = mixed_by(mw.BlendPlan(mw.Pairs(perm, case.draws["lam"].reshape(1), (1, 1))), y)
    label = mw.SemanticShare(similarity="reference", kappa=1.0)
    settings = {"gamma": case.params["gamma"], "label": label, "form": "exp"}
    official = mw.sumix_terms(mixed, logits, clean, mixed_u, clean_u, **settings, published=True)
    single = mw.sumix_terms(mixed, logits, clean, mixed_u, clean_u, **settings)
    out = {
        "sem_a": official.semantic[:, 0],
        "sem_b": official.semantic[:, 1],
        "lam_a": official.weights[:, 0],
        "lam_b": official.weights[:, 1],
        "loss_reg": official.regulariser,
        "loss_official": official.loss,
        "loss_per_sample": single.loss,
        "feat_a": official.features[:, 0],
        "feat_b": official.features[:, 1],
        "beta_a": official.uncertainty[:, 0],
        "beta_b": official.uncertainty[:, 1],
    }
    for k, name in enumerate(("ce_a", "ce_b")):
        one = torch.zeros_like(mixed.weights)
        one[:, k] = 1
        out[name] = mw.cross_entropy(logits, mixed.with_weights(one), reduction="none")
    names = ["logits_clean", *(["raw_unc_clean", "raw_unc_mix"] if raw else [])]
    grads = torch.autograd.grad(official.loss, [logits, clean, *raw], retain_graph=True, allow_unused=True)
    out["grad_logits_mix_official"] = grads[0]
    out["grad_logits_mix_per_sample"] = torch.autograd.grad(single.loss, logits)[0]
    for name, grad, tensor in zip(names, grads[1:], [clean, *raw], strict=True):
        out[f"grad_{name}"] = torch.zeros_like(tensor) if grad is None else grad
    return out


def _sumix_head(case):
    head = mw.UncertaintyHead(case.inputs["unc_weight"].shape[1], case.params["num_classes"])
    classifier = torch.nn.Linear(case.inputs["fc_weight"].shape[1], case.params["num_classes"])
    head.linear.load_state_dict({"weight": case.inputs["unc_weight"], "bias": case.inputs["unc_bias"]})
    classifier.load_state_dict({"weight": case.inputs["fc_weight"], "bias": case.inputs["fc_bias"]})
    return {"logits": classifier(mw.pooled(case.inputs["feat"])), "unc": head(case.inputs["feat"])}


def label_variants(case):
    p = case.params
    logits = case.inputs["logits"].clone().requires_grad_()
    if "lam_a" in case.draws:
        mixed = _two_labels(case, 0.5).with_weights(torch.stack((case.draws["lam_a"], case.draws["lam_b"]), 1))
        return {
            "loss": (loss := mw.cross_entropy(logits, mixed, published=True)),
            "grad": torch.autograd.grad(loss, logits)[0],
            "loss_per_sample": mw.cross_entropy(logits, mixed),
        }
    mixed = _two_labels(case, case.draws["lam"])
    smoothing = p["label_smoothing"]
    smoothing = classy_vision_smoothing(smoothing) if p["smoothing_mode"] == "classy_vision" else smoothing
    out = {}
    if p["criterion"] == "bce":
        rescale = {
            "none": None,
            "pow": mw.PowerRescale(threshold=p["lam_thr"], exponent=p["lam_idx"]),
            "exp": mw.ExponentialRescale(threshold=p["lam_thr"], base=p["lam_idx"]) if abs(p["lam_idx"]) != 1 else None,
        }[p["lam_scale_mode"]]
        published, fixed = (
            mw.TwoHotTargets(scale=p["two_hot_scale"], rescale=rescale, clamp=clamp)
            if p["two_hot"]
            else mw.SoftTargets()
            for clamp in (False, True)
        )
        losses = [
            mw.binary_cross_entropy(logits, mixed, smoothing, targets=t, classes="sum", negative_weight=p["neg_weight"])
            for t in (published, fixed)
        ]
        loss, out["target"] = losses[0], published(mixed, p["num_classes"])
        out["target_fixed"], out["loss_fixed"] = fixed(mixed, p["num_classes"]), losses[1]
    else:
        loss = mw.cross_entropy(logits, mixed, smoothing)
        out["target"] = mixed.targets(p["num_classes"])
    out["element_weight"] = mw.target_weights(out["target"], p["neg_weight"])
    out |= {"loss": loss, "grad": torch.autograd.grad(loss, logits)[0]}
    return {name: out[name] for name in case.expected}


def accuracy_mixup(case):
    logits = case.inputs["logits"]
    if "labels" in case.inputs:
        labels = case.inputs["labels"].T
        plan = mw.BoxPlan(
            mw.Pairs(labels[:, 1:] * 0, torch.ones(1), (1, 1)), torch.zeros(1, labels.shape[1] - 1, 4).long()
        )
        mixed = mw.MixedBatch(torch.empty(0), labels, case.draws["lam"].float().expand(labels.shape), plan)
        return {"acc": mw.ranked_accuracy(logits, mixed, order="given")}
    mixed = _two_labels(case, case.draws["lam"])
    return {"acc": mw.ranked_accuracy(logits, mixed, order="batch"), "acc_top1": mw.mixed_accuracy(logits, mixed)}


ADAPTERS = {f.__name__: f for f in (sumix_loss, label_variants, accuracy_mixup)}
