"""Adapters from golden vectors to the library: they call public functions and hold no formula of their own."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

import mixwell as mw
from mixwell.methods import normalised_uncertainty
from mixwell.ops import boxes as box_ops
from mixwell.ops import fourier, grid
from mixwell.ops.cells import kept_cells, top_cells
from mixwell.ops.gaussian import bump
from mixwell.ops.peaks import peaks
from mixwell.policies.snapmix import semantic_share, snap
from mixwell.saliency.activation import class_map, reduced
from mixwell.targets import classy_vision_smoothing


def _pairs(case, lam, partner=None) -> mw.Pairs:
    x = case.inputs["x"]
    partner = case.draws["perm"] if partner is None else partner
    lam = torch.as_tensor(lam).reshape(-1)
    return mw.Pairs(partner, lam, (x.shape[2], x.shape[3]))


def _mixed(plan: mw.Plan, labels: Tensor, images: Tensor | None = None) -> mw.MixedBatch:
    return mw.MixedBatch(None if images is None else plan.apply(images), labels[plan.sources], plan.weights, plan)


def _two_labels(case, lam) -> mw.MixedBatch:
    """A batch known only by its labels and ratio, as the loss vectors are."""
    y_a, y_b = case.inputs["y_a"], case.inputs["y_b"]
    lam = torch.as_tensor(lam).expand(len(y_a))
    plan = mw.BlendPlan(mw.Pairs(torch.arange(len(y_a)), lam, (1, 1)))
    return mw.MixedBatch(torch.empty(0), torch.stack((y_a, y_b), 1), plan.weights, plan)


def mixup(case):
    plan = mw.BlendPlan(_pairs(case, case.draws["lam"]))
    mixed = _mixed(plan, case.inputs["y"], case.inputs["x"])
    return {"mixed": mixed.images, "y_b": mixed.labels[:, 1], "lam_a": mixed.weights[0, 0]}


def _box_outputs(plan: mw.BoxPlan, case):
    mixed = _mixed(plan, case.inputs["y"], case.inputs["x"])
    return {
        "box": plan.boxes[0, 0],
        "mask_b": plan.share(plan.size)[:1, 1:],
        "mixed": mixed.images,
        "y_b": mixed.labels[:, 1],
        "lam_a": mixed.weights[0, 0],
    }


def _centre(case, row: str, column: str) -> Tensor:
    return torch.stack((case.draws[row], case.draws[column])).reshape(1, 2)


def cutmix(case):
    pairs = _pairs(case, case.draws["lam"])
    centre = _centre(case, "center_row", "center_col")
    boxes = box_ops.place(box_ops.clipped_around, pairs.size, box_ops.cut_side(pairs.lam), centre)
    return _box_outputs(mw.BoxPlan(pairs, boxes), case)


def resizemix(case):
    tau = case.draws["tau"].reshape(1)
    pairs = _pairs(case, tau)
    centre = _centre(case, "center_row", "center_col")
    boxes = box_ops.place(box_ops.clipped_around, pairs.size, tau[:, None].expand(-1, 2), centre)
    plan = mw.BoxPlan(pairs, boxes, box_ops.whole_image(boxes, pairs.size), case.params["interpolation"])
    return _box_outputs(plan, case)


def fmix(case):
    x, size = case.inputs["x"], tuple(case.inputs["x"].shape[2:])
    lam, up = case.draws["lam"].reshape(1), case.draws["coin_ceil"].reshape(1) > 0
    decay, soft = case.params["decay"], case.params["max_soft"]
    grey = fourier.low_frequency_field(case.draws["noise"], size, decay)
    published = fourier.published_field(case.draws["noise"], size, decay)
    masks = {name: fourier.largest(field, lam, up, soft) for name, field in (("paper", grey), ("reference", published))}
    plan = mw.MaskPlan(_pairs(case, lam), masks["paper"][:, None])
    mixed = _mixed(plan, case.inputs["y"], x)
    return {
        "grey_paper": fourier.normalised(grey),
        "grey_reference": fourier.normalised(published),
        "mask_a_paper": masks["paper"][:, None].float(),
        "mask_a_reference": masks["reference"][:, None].float(),
        "mask_a_from_grey_given": fourier.largest(case.inputs["grey_given"], lam, up, soft)[:, None].float(),
        "y_b": mixed.labels[:, 1],
        "lam_a": plan.lam[0],
        "mask_mean_a": plan.weights[0, 0],
        "mixed_paper": mixed.images,
        "mixed_reference": mw.MaskPlan(_pairs(case, lam), masks["reference"][:, None]).apply(x),
    }


def saliencymix(case):
    detector = mw.FineGrained(channels="bgr", wrap=True, max_size=None)
    if "image_u8" in case.inputs:
        maps = detector(None, case.inputs["image_u8"].permute(2, 0, 1)[None], torch.zeros(1, dtype=torch.int64))
        return {"saliency": maps[0], "peak": peaks(maps, tuple(maps.shape[1:]), levels=255)[0]}
    if "saliency" not in case.inputs:
        raise NotImplementedError("end to end on float images: the map is noise, see policies.SaliencyMix's Note")
    pairs = _pairs(case, case.draws["lam"])
    peak = peaks(case.inputs["saliency"][None], pairs.size, levels=255)
    plan = mw.BoxPlan(pairs, box_ops.place(box_ops.clipped_around, pairs.size, box_ops.cut_side(pairs.lam), peak))
    return _box_outputs(plan, case) | {"peak": peak[0]}


def sumix_loss(case):
    if case.id == "head_forward" or "feat" in case.inputs:
        return _sumix_head(case)
    y, perm = case.inputs["y"], case.draws["perm"]
    clean, logits = (case.inputs[k].clone().requires_grad_() for k in ("logits_clean", "logits_mix"))
    raw = [case.inputs[k].clone().requires_grad_() for k in ("raw_unc_clean", "raw_unc_mix") if k in case.inputs]
    clean_u, mixed_u = [normalised_uncertainty(r) for r in raw] if case.params["is_norm"] else (clean, logits)
    mixed = _mixed(mw.BlendPlan(mw.Pairs(perm, case.draws["lam"].reshape(1), (1, 1))), y)
    settings = {"gamma": case.params["gamma"], "share": mw.SemanticShare(similarity="reference"), "form": "exp"}
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
            mw.TwoHotTargets(scale=p["two_hot_scale"], rescale=rescale, clamp=clamp) if p["two_hot"] else mw.SoftTargets()
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
        plan = mw.BoxPlan(mw.Pairs(labels[:, 1:] * 0, torch.ones(1), (1, 1)), torch.zeros(1, labels.shape[1] - 1, 4).long())
        mixed = mw.MixedBatch(torch.empty(0), labels, case.draws["lam"].float().expand(labels.shape), plan)
        return {"acc": mw.ranked_accuracy(logits, mixed, order="given")}
    mixed = _two_labels(case, case.draws["lam"])
    return {"acc": mw.ranked_accuracy(logits, mixed, order="batch"), "acc_top1": mw.mixed_accuracy(logits, mixed)}


def torchvision(case):
    x, y = case.inputs["x"], case.inputs["y"]
    partner = mw.Roll()(mw.Batch(x, y))
    pairs = _pairs(case, case.draws["lam"], partner)
    out = {}
    if case.params["kind"] == "mixup":
        plan = mw.BlendPlan(pairs)
    else:
        side, centre = box_ops.cut_side(pairs.lam), _centre(case, "r_y", "r_x")
        plan = mw.BoxPlan(pairs, box_ops.place(box_ops.clipped_around, pairs.size, side, centre))
        out["box"] = plan.boxes[0, 0]
    mixed = _mixed(plan, y, x)
    return out | {"mixed": mixed.images, "target": mixed.targets(case.params["num_classes"])}


def timm(case):
    p = case.params
    if p["kind"] == "multi_label":
        dense = case.inputs["y_dense"]
        n = len(dense)
        plan = mw.BlendPlan(mw.Pairs(mw.Reverse()(mw.Batch(torch.zeros(n, 1, 1, 1), dense)), case.draws["lam"].reshape(-1), (1, 1)))
        return {"target": _mixed(plan, dense).targets(p["num_classes"], p["label_smoothing"], toward=0.5)}
    x, y = case.inputs["x"], case.inputs["y"]
    batch = mw.Batch(x, y)
    partner = mw.Reverse()(batch)
    once = torch.minimum(torch.arange(len(batch)), partner) if p["mode"] == "pair" else slice(None)
    lam, cut = (case.draws[name].reshape(-1) for name in ("lam", "use_cutmix"))
    lam, cut = lam[once], cut[once] > 0
    pairs = mw.Pairs(partner, lam, batch.size)
    plan, out = mw.BlendPlan(pairs), {}
    if cut.any():
        boxes = _timm_boxes(case, pairs, once)
        pasted = mw.BoxPlan(pairs, boxes, weight=None if p["correct_lam"] else lam)
        plan = mw.choose_per_sample((plan, pasted), cut.expand(len(batch)).long())
        rows = cut.nonzero()[:, 0]
        out["boxes"] = boxes[rows][: len(case.expected["boxes"])] if "boxes" in case.expected else None
    mixed = _mixed(plan, y, x)
    return out | {"mixed": mixed.images, "target": mixed.targets(p["num_classes"], p["label_smoothing"])}


def _timm_boxes(case, pairs, once):
    centre = case.draws["center"][once].clamp_min(0)
    if case.params["minmax"]:
        height, width = case.draws["cut_hw"].T
        return torch.stack((centre[:, 0], centre[:, 0] + height, centre[:, 1], centre[:, 1] + width), 1)
    side = box_ops.cut_side(pairs.lam)
    return box_ops.place(box_ops.clipped_around, pairs.size, side, centre, odd="exact")


def kornia(case):
    x, y = case.inputs["x"], case.inputs["y"]
    pair, size = case.draws["pair"], tuple(x.shape[2:])
    if case.params["kind"] == "mixup":
        plan = mw.BlendPlan(mw.Pairs(pair, 1 - case.draws["lam"], size))
        mixed = _mixed(plan, y, x)
        return {"mixed": mixed.images, "labels": torch.cat((mixed.labels, mixed.weights[:, 1:]), 1)}
    corners = case.draws["crop"].long()  # (M, B, 4, 2), inclusive, (x, y)
    first, last = corners[:, :, 0], corners[:, :, 2]
    boxes = torch.stack((first[..., 1], last[..., 1] + 1, first[..., 0], last[..., 0] + 1), -1)  # (M, B, 4)
    pair = pair.reshape(len(boxes), -1)
    plan = mw.BoxPlan(mw.Pairs(pair.T, torch.ones(1), size), boxes.transpose(0, 1))
    labels = []
    for m in range(len(boxes)):
        single = _mixed(mw.BoxPlan(mw.Pairs(pair[m], torch.ones(1), size), boxes[m]), y)
        weight = single.weights[:, :1] if case.params["use_correct_lambda"] else single.weights[:, 1:]
        labels.append(torch.cat((single.labels, weight), 1))
    return {"mixed": plan.apply(x), "labels": torch.stack(labels)}


def _soft_outputs(plan: mw.MaskPlan, case, name: str = "mask_b"):
    mixed = _mixed(plan, case.inputs["y"], case.inputs["x"])
    k = 1 if name == "mask_b" else 0
    share = plan.share(plan.size)[:, k : k + 1]
    share = share[: len(case.expected[name])] if name in case.expected else share
    return {name: share, "mixed": mixed.images, "y_b": mixed.labels[:, 1], "lam_a": mixed.weights[0, 0]}


def smoothmix(case):
    pairs = _pairs(case, 0.5)
    middle = torch.tensor([[(side - 1) / 2 for side in pairs.size]], dtype=torch.float64)
    centre = torch.stack((case.draws["off_row"], case.draws["off_col"])).reshape(1, 2) + middle
    sigma = case.draws["sigma"].reshape(1, 1).expand(1, 2)
    return _soft_outputs(mw.MaskPlan(pairs, 1 - bump(centre, sigma, pairs.size)[:, None]), case)


def gridmix(case):
    draw = {name: value.reshape(1) for name, value in case.draws.items() if name != "perm"}
    pairs = _pairs(case, draw["lam"])
    crop = grid.grid_crop(draw["cut_area"], draw["cut_aspect"], pairs.size, clamp=True)
    where = torch.stack((draw["u_row"], draw["u_col"]), 1)
    inside = grid.holes(draw["lam"], crop, where, draw["n_holes"], draw["hole_aspect"], pairs.size)
    return _soft_outputs(mw.MaskPlan(pairs, ~inside[:, None]), case)


def attentivemix(case):
    maps = reduced(case.inputs["features"], "mean")
    pairs = _pairs(case, case.draws["lam"])
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
            out |= {"mask_a": mixed.plan.share(batch.size)[:, 0], "lam_b": mixed.weights[:, 1], "y_b": mixed.labels[:, 1]}
    return out | {"sal_norm": policy.guidance(batch.saliency, batch.size) * math.prod(batch.size)}  # stored in other units


def snapmix(case):
    x, y, d = case.inputs["x"], case.inputs["y"], case.draws
    size = tuple(x.shape[2:])
    raw = class_map(case.inputs["feat"], case.inputs["fc_weight"], case.inputs["fc_bias"], y)
    shares = semantic_share(raw, size)
    batch = mw.Batch(x, y, saliency=shares)
    pairs = mw.Pairs(d["perm"], d["lam1"].reshape(1), size, batch=batch)
    boxes, source_boxes = (
        box_ops.place(box_ops.clipped_around, size, box_ops.cut_side(d[f"lam{k}"].reshape(1)), _centre(case, f"row{k}", f"col{k}"))
        for k in (1, 2)
    )
    plan = snap(pairs, boxes, source_boxes, y == y[d["perm"]])
    mixed = _mixed(plan, y, x)
    return {
        "box_a": boxes[0],
        "box_b": source_boxes[0],
        "spm": shares * math.prod(size),  # stored in other units
        "mixed": mixed.images,
        "y_b": mixed.labels[:, 1],
        "lam_a": mixed.weights[:, 0],
        "lam_b": mixed.weights[:, 1],
    }


ADAPTERS = {
    f.__name__: f
    for f in (
        mixup, cutmix, resizemix, fmix, saliencymix, sumix_loss, label_variants, accuracy_mixup, torchvision, timm, kornia,
        smoothmix, gridmix, attentivemix, guidedmix, snapmix,
    )
}  # fmt: skip
