"""Adapters from the golden vectors of learned mixing to the library: they hold no formula of their own."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor, nn

import mixwell as mw
from mixwell.ema import follow
from mixwell.methods.adautomix import adversarial, source_cosine
from mixwell.methods.automix import AutoMix
from mixwell.mixers.adaptivemask import AdaptiveMask, SourceAttention
from mixwell.mixers.masks import adjusted, even_near_pure
from mixwell.mixers.mixblock import MixBlock
from mixwell.mixers.published import ReleasedMomentum, ReleasedPairAttention, published
from mixwell.plan import SharePlan

NORMS = {None: None, "BN": "batch", "LN2d": "layer"}
MODES = ("L1", "L1+Variance", "L2+Variance", "Sparsity")
# The reference's names of weights, and ours.
NAMES = (
    ("value.conv.0.conv.", "value.0."),
    ("value.conv.0.bn.", "value.1."),
    ("value.conv.1.conv.", "value.3."),
    ("conv_v.", "value."),
    ("conv_q.", "query."),
    ("conv_k.", "key."),
    (".conv.", ".0."),
    (".bn.", ".1."),
    (".ln.", ".1."),
)


def _renamed(name: str) -> str:
    for theirs, ours in NAMES:
        name = name.replace(theirs, ours)
    return name


def _loaded(block: nn.Module, case) -> nn.Module:
    weights = {_renamed(name[2:]): w for name, w in case.inputs.items() if name.startswith("w:")}
    wrong = block.load_state_dict(weights, strict=False)
    assert not wrong.unexpected_keys and all("num_batches" in name for name in wrong.missing_keys), wrong
    return block.train(case.params.get("train", False))


def _pair_block(case, channels: int) -> MixBlock:
    p = case.params
    k = p.get("lam_mul_k", -1)
    settings = ReleasedPairAttention(
        reduction=p["reduction"],
        norm=NORMS[p.get("att_norm")],
        upsampling=p["mode"],
        lam_concat=p["lam_concat"],
        lam_concat_value=p.get("lam_concat_v", False),
        lam_multiply=float(p.get("lam_mul", False)),
        residual=p.get("lam_residual", False),
        k=None if k < 0 else min(k, 10),  # the reference clips it
        pair=p.get("x_qk_concat", False),
        neck=p.get("value_neck", False),
    )
    return _loaded(settings.build(channels), case)


def _grown(maps: Tensor, factor: int) -> tuple[int, int]:
    return maps.shape[2] * factor, maps.shape[3] * factor


def mixblock(case):
    a = case.inputs["feat"]
    b, lam = a[case.draws["perm"]], case.draws["lam"].float().reshape(1)
    block = _pair_block(case, a.shape[1])
    state = {name: value.clone() for name, value in block.state_dict().items()}
    attention, value = block.attention(a, b, lam), block.project(a, b, lam)[2][..., 0]
    block.load_state_dict(state)
    share = block(a, b, lam, _grown(a, case.params["scale_factor"]))
    weights = {n[2:]: block.get_parameter(_renamed(n[2:])) for n in case.inputs if n[:2] == "w:" and "running" not in n}
    cost = ((1 - share[:, 0]) * case.inputs["cotangent"]).sum()
    gradients = torch.autograd.grad(cost, list(weights.values()))
    margin = case.params["mask_loss_margin"]
    return {
        "attn": attention,
        "value": value,
        "mask_b": 1 - share,
        **{f"grad:{name}": gradient for name, gradient in zip(weights, gradients, strict=True)},
        **{f"mask_loss:{mode}": published(mode, margin)(share, lam) for mode in MODES},
    }


def _draws(case, which: str) -> tuple[Tensor, Tensor]:
    return case.draws[f"perm_{which}"], case.draws[f"lam_{which}"].float().reshape(1)


def both(lam: Tensor) -> Tensor:
    return torch.stack((lam, 1 - lam), 1)


def _two(share: Tensor) -> Tensor:
    return torch.cat((share, 1 - share), 1)


def automix_mixup(case):
    x, maps, p = case.inputs["x"], case.inputs["feat"], case.params
    block = _pair_block(case, maps.shape[1])
    size = _grown(maps, 2 ** (p["mask_layer"] if x.shape[3] <= 64 else 2 + p["mask_layer"]))
    shares, images = {}, {}
    for which in ("mb", "bb"):
        partner, lam = _draws(case, which)
        share = block(maps, maps[partner], lam, size)
        if which == "bb":
            lam = lam.expand(len(x))
            if p["mask_adjust"] > case.draws["u"]:
                share = adjusted(share, lam)
            share = even_near_pure(share, lam[:, None], p["lam_margin"])
        shares[which] = share
        images[which] = mw.MaskPlan(mw.Pairs(partner, lam, size), share).apply(x)
    cost = published(p["mask_loss_mode"], p["mask_loss_margin"])(shares["mb"], _draws(case, "mb")[1])
    found = {
        "mask_mb": _two(shares["mb"]),
        "img_mb": images["mb"],
        "mask_bb": _two(shares["bb"]),
        "img_bb": images["bb"],
        "mask_loss": p["mask_loss_weight"] * cost,
    }
    return found | {"mask_bb_fixed": found["mask_bb"], "img_bb_fixed": found["img_bb"]}


class Net(nn.Module):
    """The golden vectors' backbone, with one head."""

    def __init__(self, case, prefix: str, head: str) -> None:
        super().__init__()
        kernels = [case.inputs[f"{prefix}:conv{i}.weight"] for i in (1, 2)]
        self.conv1 = nn.Conv2d(*kernels[0].shape[1::-1], 3, 4, 1)
        self.conv2 = nn.Conv2d(*kernels[1].shape[1::-1], 3, 2, 1)
        self.first = nn.ReLU()
        self.fc = nn.Linear(len(kernels[1]), case.params["num_classes"])
        for i, layer in enumerate((self.conv1, self.conv2), 1):
            _fill(layer, case, f"{prefix}:conv{i}.")
        _fill(self.fc, case, head)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.first(self.conv1(x))).relu().mean((2, 3)))


def _fill(layer: nn.Module, case, prefix: str) -> None:
    layer.load_state_dict({name: case.inputs[prefix + name] for name in ("weight", "bias")})


class Drawn(mw.BatchPolicy):
    """A policy whose draws for the block and for the classifier are given."""

    draws: list = field(default_factory=list)

    def _draw(self, batch: mw.Batch, partner: Tensor | None = None) -> mw.Plan:
        partner, lam = self.draws.pop(0)
        return mw.BlendPlan(mw.Pairs(partner, lam, batch.size))


def automix_step(case):
    x, y, p = case.inputs["x"], case.inputs["y"], case.params
    method = AutoMix(
        Net(case, "q", "hq_one:fc."),
        Drawn(draws=[_draws(case, "mb"), _draws(case, "bb")]),
        layer="first",
        channels=case.inputs["q:conv1.weight"].shape[0],
        block=_pair_block(case, case.inputs["q:conv1.weight"].shape[0]).settings,
        mask_loss=published(p["mask_loss_mode"], p["mask_loss_margin"]),
        mask_weight=p["mask_loss_weight"],
        margin=p["lam_margin"],
        momentum=p["momentum"],
    )
    method.teacher.model.load_state_dict(Net(case, "k", "hk_mix:fc.").state_dict())
    _fill(method.heads.layer, case, "hq_mix:fc.")
    _fill(method.teacher.heads.layer, case, "hk_mix:fc.")
    _loaded(method.block, case)
    method.train(p["train"])
    terms = method(x, y)
    terms["loss"].backward()
    names = {"w:": lambda n: method.block.get_parameter(_renamed(n)), "q:": method.model.get_parameter}
    names |= {"hq_one:fc.": method.model.fc.get_parameter, "hq_mix:fc.": method.heads.layer.get_parameter}
    gradients = {
        f"grad:{name}": find(name.removeprefix(prefix)).grad
        for prefix, find in names.items()
        for name in case.inputs
        if name.startswith(prefix) and "running" not in name
    }
    method.after_step(0.0)
    return gradients | {
        "loss_total": terms["loss"],
        "loss_mix_q": terms["mixed_loss"],
        "loss_one_q": terms["clean_loss"],
        "loss_mix_k": terms["block_loss"],
        "mask_loss": p["mask_loss_weight"] * terms["mask_loss"],
        "k_after:conv1.weight": method.teacher.model.conv1.weight,
    }


def _source_block(case, channels: int) -> AdaptiveMask:
    p = case.params
    settings = SourceAttention(
        reduction=p["reduction"], norm=NORMS[p["att_norm"]], upsampling=p["mode"], lam_concat=p["lam_concat"]
    )
    return _loaded(settings.build(channels), case)


def _shared(case, block: AdaptiveMask, rows: Tensor, lam: Tensor, even: bool) -> tuple[Tensor, Tensor]:
    """Mix rows ``(K, N)`` of the batch; the plan's anchors are the first row's images."""
    maps, x = case.inputs["feat"], case.inputs["x"]
    size = _grown(maps, case.params["scale_factor"])
    shares = block(maps[rows.T], lam, size)
    if even:
        lam = lam.expand(len(x), -1)
        # The reference looks at the first ratio only.
        first, margin = lam[:, 0, None, None, None], case.params["lam_margin"]
        shares = torch.where((first <= margin) | (first >= 1 - margin), lam[:, :, None, None], shares)
    place = rows[0].argsort()  # where in the reordered batch each image stands
    pairs = mw.Pairs(place[rows[1:]].T, lam[:, 0], size)
    return shares, SharePlan(pairs, shares).apply(x[rows[0]])


def adautomix(case):
    lam = case.draws["lam"].float()
    if case.id.startswith("losses") or "logits_mix" in case.inputs:
        return _adversarial_losses(case, lam)
    block = _source_block(case, case.inputs["feat"].shape[1])
    rows = case.draws.get("perms")
    if rows is None:
        anchor = torch.arange(len(case.inputs["x"]))
        rows = torch.stack((anchor, case.draws["perm"]))
        shares, mixed = _shared(case, block, rows, both(lam.reshape(1)), even=False)
        found = {"mask": shares, "mixed": mixed}
        if "perm_bb" in case.draws:
            rows = torch.stack((anchor, case.draws["perm_bb"]))
            lam = both(case.draws["lam_bb"].float().reshape(1))
            found["mixed_bb_margin"] = _shared(case, block, rows, lam, even=True)[1]
        return found
    shares, mixed = _shared(case, block, rows, lam[None], even=False)
    found = {"mask": shares, "mixed": mixed}
    if "perms_bb" in case.draws:
        found["mixed_bb_fixed"] = _shared(case, block, case.draws["perms_bb"], lam[None], even=True)[1]
    return found


def _adversarial_losses(case, lam: Tensor):
    logits, labels = case.inputs["logits_mix"], case.inputs["labels"].T
    lam = lam.expand(len(logits), -1)
    loss = mw.cross_entropy(logits, mw.MixedBatch(torch.empty(0), labels, lam, None))
    cosine = source_cosine(logits, case.inputs["logits_src"].transpose(0, 1), lam)
    cost = adversarial(loss, cosine, case.params["beta"], sign=1)
    return {"co_loss": loss, "cos_term": cosine, "adv_objective": cost}


def schedules(case):
    p = case.params
    if p["kind"] == "ema":
        own, other = (nn.ParameterList([case.inputs[name].clone()]) for name in ("param_k", "param_q"))
        for _ in range(p["steps"]):
            follow(own, other, p["momentum"])
        return {"param_k": own[0]}
    steps = p["total_iters"]
    progress = [step / steps for step in range(steps)]
    if p["kind"] == "cosine_annealing":
        return {"weight": torch.tensor([mw.Cosine(p["base"], p["min"])(t) for t in progress], dtype=torch.float64)}
    # The reference counts whole iterations.
    warm, until = (int(steps * share) / steps for share in p["adjust_scope"])
    momentum = ReleasedMomentum(
        base=p["base"],
        end=p["end_momentum"],
        warm=warm,
        until=until,
        restart=p["restart"] / steps,
        linear=p["warming_up"] == "linear",
    )
    return {"momentum": torch.tensor([momentum(t) for t in progress], dtype=torch.float64)}


ADAPTERS = {
    "mixblock": mixblock,
    "automix_mixup": automix_mixup,
    "automix_step": automix_step,
    "adautomix": adautomix,
    "schedules": schedules,
}
