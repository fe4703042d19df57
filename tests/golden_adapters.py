"""Adapters from golden vectors to the library: they call public functions and hold no formula of their own."""

from __future__ import annotations

import torch

import golden_alignmix
import golden_automix
import golden_labels
import golden_losses
import golden_puzzlemix
import golden_regions
import mixwell as mw
from golden_cases import box_outputs, centre_of, mixed_by, pairs_of
from mixwell.ops import boxes as box_ops
from mixwell.ops import fourier
from mixwell.ops.peaks import peaks


def mixup(case):
    plan = mw.BlendPlan(pairs_of(case, case.draws["lam"]))
    mixed = mixed_by(plan, case.inputs["y"], case.inputs["x"])
    return {"mixed": mixed.images, "y_b": mixed.labels[:, 1], "lam_a": mixed.weights[0, 0]}


def cutmix(case):
    pairs = pairs_of(case, case.draws["lam"])
    centre = centre_of(case, "center_row", "center_col")
    boxes = box_ops.place(box_ops.clipped_around, pairs.size, box_ops.cut_side(pairs.lam), centre)
    return box_outputs(mw.BoxPlan(pairs, boxes), case)


def resizemix(case):
    tau = case.draws["tau"].reshape(1)
    pairs = pairs_of(case, tau)
    centre = centre_of(case, "center_row", "center_col")
    boxes = box_ops.place(box_ops.clipped_around, pairs.size, tau[:, None].expand(-1, 2), centre)
    plan = mw.BoxPlan(pairs, boxes, box_ops.whole_image(boxes, pairs.size), case.params["interpolation"])
    return box_outputs(plan, case)


def fmix(case):
    x, size = case.inputs["x"], tuple(case.inputs["x"].shape[2:])
    lam, up = case.draws["lam"].reshape(1), case.draws["coin_ceil"].reshape(1) > 0
    decay, soft = case.params["decay"], case.params["max_soft"]
    grey = fourier.low_frequency_field(case.draws["noise"], size, decay)
    published = fourier.published_field(case.draws["noise"], size, decay)
    masks = {name: fourier.largest(field, lam, up, soft) for name, field in (("paper", grey), ("reference", published))}
    plan = mw.MaskPlan(pairs_of(case, lam), masks["paper"][:, None])
    mixed = mixed_by(plan, case.inputs["y"], x)
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
        "mixed_reference": mw.MaskPlan(pairs_of(case, lam), masks["reference"][:, None]).apply(x),
    }


def saliencymix(case):
    detector = mw.FineGrained(channels="bgr", wrap=True, max_size=None)
    if "image_u8" in case.inputs:
        maps = detector(None, case.inputs["image_u8"].permute(2, 0, 1)[None], torch.zeros(1, dtype=torch.int64))
        return {"saliency": maps[0], "peak": peaks(maps, tuple(maps.shape[1:]), levels=255)[0]}
    if "saliency" not in case.inputs:
        raise NotImplementedError("end to end on float images: the map is noise, see policies.SaliencyMix's Note")
    pairs = pairs_of(case, case.draws["lam"])
    peak = peaks(case.inputs["saliency"][None], pairs.size, levels=255)
    plan = mw.BoxPlan(pairs, box_ops.place(box_ops.clipped_around, pairs.size, box_ops.cut_side(pairs.lam), peak))
    return box_outputs(plan, case) | {"peak": peak[0]}


def torchvision(case):
    x, y = case.inputs["x"], case.inputs["y"]
    partner = mw.Roll()(mw.Batch(x, y))
    pairs = pairs_of(case, case.draws["lam"], partner)
    out = {}
    if case.params["kind"] == "mixup":
        plan = mw.BlendPlan(pairs)
    else:
        side, centre = box_ops.cut_side(pairs.lam), centre_of(case, "r_y", "r_x")
        plan = mw.BoxPlan(pairs, box_ops.place(box_ops.clipped_around, pairs.size, side, centre))
        out["box"] = plan.boxes[0, 0]
    mixed = mixed_by(plan, y, x)
    return out | {"mixed": mixed.images, "target": mixed.targets(case.params["num_classes"])}


def timm(case):
    p = case.params
    if p["kind"] == "multi_label":
        dense = case.inputs["y_dense"]
        n = len(dense)
        plan = mw.BlendPlan(
            mw.Pairs(mw.Reverse()(mw.Batch(torch.zeros(n, 1, 1, 1), dense)), case.draws["lam"].reshape(-1), (1, 1))
        )
        return {"target": mixed_by(plan, dense).targets(p["num_classes"], p["label_smoothing"], toward=0.5)}
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
    mixed = mixed_by(plan, y, x)
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
        mixed = mixed_by(plan, y, x)
        return {"mixed": mixed.images, "labels": torch.cat((mixed.labels, mixed.weights[:, 1:]), 1)}
    corners = case.draws["crop"].long()  # (M, B, 4, 2), inclusive, (x, y)
    first, last = corners[:, :, 0], corners[:, :, 2]
    boxes = torch.stack((first[..., 1], last[..., 1] + 1, first[..., 0], last[..., 0] + 1), -1)  # (M, B, 4)
    pair = pair.reshape(len(boxes), -1)
    plan = mw.BoxPlan(mw.Pairs(pair.T, torch.ones(1), size), boxes.transpose(0, 1))
    labels = []
    for m in range(len(boxes)):
        single = mixed_by(mw.BoxPlan(mw.Pairs(pair[m], torch.ones(1), size), boxes[m]), y)
        weight = single.weights[:, :1] if case.params["use_correct_lambda"] else single.weights[:, 1:]
        labels.append(torch.cat((single.labels, weight), 1))
    return {"mixed": plan.apply(x), "labels": torch.stack(labels)}


ADAPTERS = {f.__name__: f for f in (mixup, cutmix, resizemix, fmix, saliencymix, torchvision, timm, kornia)}
for part in (golden_alignmix, golden_automix, golden_labels, golden_losses, golden_puzzlemix, golden_regions):
    ADAPTERS |= part.ADAPTERS
