"""The step of every method, written once more as a plain loop for the networks of ``small_nets``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell import (
    AdAutoMix,
    AlignMix,
    AugMix,
    AutoMix,
    Batch,
    BatchPolicy,
    BlendPlan,
    GridLoss,
    HiddenMix,
    LabelPolicy,
    MaskPlan,
    Method,
    MixedBatch,
    Mixing,
    NoMix,
    Pairs,
    PerturbedMixing,
    RegionLoss,
    RegMixup,
    SAMix,
    SAMixPretrained,
    SemanticShare,
    SharePlan,
    SUMix,
    View,
    jensen_shannon,
)
from mixwell.features.mixing import mix_features
from mixwell.ops.sinkhorn import log_transport, mix_aligned, squared_distances
from small_nets import Net

BOXES = torch.tensor([[0.0, 0.0, 4.0, 8.0], [1.5, 2.0, 6.0, 7.0], [4.0, 4.0, 8.0, 8.0], [2.0, 0.0, 8.0, 3.5]])

Parts = tuple[BatchPolicy, LabelPolicy, Callable[[Tensor, MixedBatch], Tensor]]
Step = Callable[[Method, Tensor, Tensor, Parts], Tensor]


def judged(method: Method, mixed: MixedBatch, logits: Tensor, images: Tensor, parts: Parts) -> Tensor:
    """Return the loss of logits after the label policy; the last forward pass was that of the mixed images."""
    return parts[2](logits, relabelled(mixed, logits, images, method.model, parts[1]))


def view_of(model: Net, logits: Tensor, images: Tensor, clean: Tensor | None = None) -> View:
    """Return what a label policy may see after the forward pass of the mixed images."""
    seen = model.attentions
    with torch.no_grad():
        maps = model.maps(images)
        clean = model(images) if clean is None else clean
    model.attentions = seen
    attention = seen[-1][:, 0, 1:].unflatten(1, (4, 4)) if seen else None
    labels = torch.zeros(len(images), dtype=torch.int64)
    read = {"clean_features": maps, "attention": attention, "attentions": seen, "images": images, "labels": labels}
    return View(logits.detach(), clean.detach(), model=model, boxes=BOXES, **read)


def relabelled(
    mixed: MixedBatch, logits: Tensor, images: Tensor, model: Net, label: LabelPolicy, clean: Tensor | None = None
) -> MixedBatch:
    return mixed.with_weights(label(mixed, view_of(model, logits, images, clean)))


def labelled(plan, images: Tensor, labels: Tensor) -> MixedBatch:
    """Return a batch whose images were mixed elsewhere."""
    return MixedBatch(images, labels[plan.sources], plan.weights, plan)


def mixing(method: Mixing, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    mixed = parts[0](images, labels)
    return judged(method, mixed, method.model(mixed.images), images, parts)


def sumix(method: SUMix, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    policy, label, loss = parts
    label = SemanticShare(similarity="reference", kappa=1.0) if method.published else label
    clean_grad = (lambda x: x) if method.published else Tensor.detach
    mixed = policy(images, labels)
    clean, logits = clean_grad(method.model(images)), method.model(mixed.images)
    weights = relabelled(mixed, logits, images, method.model, label).weights
    used = weights.mean(0).expand(len(images), 2) if method.published else weights
    main = loss(logits, mixed.with_weights(used))
    heads = [clean, logits]
    if method.head is not None:
        features = clean_grad(method.model.features(images)), method.model.features(mixed.images)
        raw = [clean_grad(method.head.linear(features[0])), method.head.linear(features[1])]
        raw = [one.softmax(1) for one in raw]
        heads = [u / u.square().sum(1, keepdim=True).sqrt() for u in raw]
    distances = (label if isinstance(label, SemanticShare) else SemanticShare()).terms(
        mixed, View(logits.detach(), clean.detach())
    )[1]
    total, ignored, left = 0.0, getattr(loss, "ignore_index", None), []
    for row in range(len(images)):
        for k in range(2):
            source = mixed.plan.sources[row, k]
            if ignored is not None and labels[source] == ignored:
                continue
            left.append(mixed.weights[row, k])
            penalty = heads[0][source] + heads[1][row] + distances[row, k]
            log_p = ((-penalty).exp() if method.published else -penalty).log_softmax(0)
            wanted = labels[source] if labels.dim() == 2 else F.one_hot(labels[source], len(log_p)).float()
            total = total - mixed.weights[row, k] * (wanted / wanted.sum().clamp_min(1e-12) * log_p).sum()
    return main + method.gamma * total / sum(left)


def unmixed(images: Tensor, labels: Tensor) -> MixedBatch:
    return NoMix()(images, labels)


def regmixup(method: RegMixup, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    mixed = parts[0](images, labels)
    clean = parts[2](method.model(images), unmixed(images, labels))
    return clean + judged(method, mixed, method.model(mixed.images), images, parts)


def hiddenmix(method: HiddenMix, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    layer = method.layers[int(float(torch.rand(())) * len(method.layers))]
    plan = parts[0].draw(images, labels)
    if layer == "input":
        features = method.model.conv(plan.apply(images))
    else:
        features = mix_features(plan, method.model.conv(images))
    return judged(method, labelled(plan, images, labels), method.model.rest(features), images, parts)


def alignmix(method: AlignMix, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    plan = parts[0].draw(images, labels)
    if float(torch.rand(())) < method.p:
        backwards = torch.rand(1) < 0.5
        maps = method.model.conv(images)
        a = maps.flatten(2).transpose(1, 2)
        b = a[plan.sources[:, 1]]
        transport = log_transport(squared_distances(a, b).detach(), method.eps, method.iterations)[0]
        aligned = mix_aligned(a, b, plan.weights[:, 0], backwards, transport)
        logits = method.model.rest(aligned.transpose(1, 2).reshape(maps.shape))
        plan = BlendPlan(Pairs(plan.sources[:, 1], plan.weights[:, 0], plan.size))  # no region belongs to one source
    else:
        logits = method.model(plan.apply(images))
    return judged(method, labelled(plan, images, labels), logits, images, parts)


def gridloss(method: GridLoss, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    mixed = parts[0](images, labels)
    logits = method.model(mixed.images)
    maps, share = method.model.maps(mixed.images), mixed.plan.share(tuple(images.shape[2:]))
    step_f, step_s = maps.shape[2] // method.cells, images.shape[2] // method.cells
    cell_losses = []
    for y in range(method.cells):
        for x in range(method.cells):
            here = maps[:, :, y * step_f :, x * step_f :][:, :, :step_f, :step_f].mean((2, 3))
            weights = share[:, :, y * step_s :, x * step_s :][:, :, :step_s, :step_s].mean((2, 3))
            cell = F.linear(here, method.head.weight[:, :, 0, 0], method.head.bias)
            cell_losses.append(parts[2](cell, mixed.with_weights(weights)))
    whole = judged(method, mixed, logits, images, parts)
    return whole + method.weight * sum(cell_losses) / len(cell_losses)


def augmix(method: AugMix, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    plan = parts[0].draw(images, labels)
    views = [plan.apply(x) for x in (images, method.views(images), method.views(images))]
    logits = [method.model(x) for x in reversed(views)][::-1]
    whole = judged(method, labelled(plan, images, labels), logits[0], images, parts)
    return whole + method.weight * jensen_shannon(torch.stack(logits))


def perturbed(method: PerturbedMixing, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    size = method.epsilon / 255
    chosen = torch.rand(len(images), 1, 1, 1) < method.p
    start = (images + (torch.rand_like(images) * 2 - 1) * size).clamp(0, 1) - images
    first = (images + start * chosen).requires_grad_()
    clean_loss = parts[2](method.model(first), unmixed(images, labels))
    (gradient,) = torch.autograd.grad(clean_loss, first, retain_graph=True)
    noise = (start + (size + 2 / 255) * gradient.sign()).clamp(-size, size) * torch.rand(())
    noisy = torch.where(chosen, (images + noise).clamp(0, 1), images).detach()
    mixed = parts[0](noisy, labels)
    whole = judged(method, mixed, method.model(mixed.images), images, parts)
    return whole + method.clean_lam * clean_loss


def regionloss(method: RegionLoss, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    mixed, model = parts[0](images, labels), method.model
    clean, logits = model(images).detach(), model(mixed.images)
    mixed = relabelled(mixed, logits, images, model, parts[1])
    maps, total = model.maps(mixed.images), parts[2](logits, mixed)
    share = F.adaptive_avg_pool2d(mixed.plan.share(mixed.plan.size), 4).expand(len(images), -1, -1, -1)
    regions, shown = [], []
    for row in range(len(images)):
        for k in range(2):
            size = share[row, k].sum()
            regions.append((share[row, k] * maps[row]).sum((1, 2)) / size.clamp_min(1e-6))
            shown.append(float(size > 0))
        target = (mixed.weights[row] @ clean[mixed.plan.sources[row]]).log_softmax(0)
        total = total + (target.exp() * (target - logits[row].log_softmax(0))).sum() / len(images)
    by_region = MixedBatch(images, mixed.labels.flatten(0, 1)[:, None], torch.tensor(shown)[:, None], mixed.plan)
    return total + parts[2](method.head(torch.stack(regions)), by_region)


def learned(method: AutoMix | AdAutoMix, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    """AutoMix's step; AdAutoMix with two sources, and a block that never works against the classifier, has the same."""
    policy, label, loss = parts
    batch = Batch(images, labels)
    draws = [policy.pairs(batch), policy.pairs(batch)]
    teacher, second = method.teacher.model, method.teacher.heads.layer
    features, total, mixtures = teacher.conv(images).detach(), 0.0, []
    for number, pairs in enumerate(draws):
        if isinstance(method, AdAutoMix):
            lam = torch.stack((pairs.lam, 1 - pairs.lam), 1).expand(len(images), -1)
            shares = method.block.shares(features, pairs.partner[:, None], lam, (8, 8))
            plan = SharePlan(pairs, shares if number == 0 else shares.detach(), lam)
        else:
            share = method.block(features, features[pairs.partner], pairs.lam, (8, 8))
            plan = MaskPlan(pairs, share if number == 0 else share.detach())
            if number == 0:
                total = total + method.mask_weight * method.mask_loss(share, pairs.lam)
        mixtures.append(MixedBatch(plan.apply(images), labels[plan.sources], plan.weights.detach(), plan))
    clean, logits = second(teacher.features(images)), second(teacher.features(mixtures[0].images))
    total = total + loss(logits, relabelled(mixtures[0], logits, images, teacher, label, clean))
    return total + two_heads(method, mixtures[1], images, labels, parts)


def two_heads(method: Method, mixed: MixedBatch, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    """Return the losses of the own last layer on unmixed images and of the second layer on mixed ones."""
    clean = parts[2](method.model(images), unmixed(images, labels))
    return clean + judged(method, mixed, method.heads.layer(method.model.features(mixed.images)), images, parts)


def pretrained(method: SAMixPretrained, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    return two_heads(method, parts[0](images, labels), images, labels, parts)


STEPS: dict[type[Method], Step] = {
    RegionLoss: regionloss,
    AutoMix: learned,
    AdAutoMix: learned,
    SAMix: learned,
    SAMixPretrained: pretrained,
    Mixing: mixing,
    SUMix: sumix,
    RegMixup: regmixup,
    HiddenMix: hiddenmix,
    AlignMix: alignmix,
    GridLoss: gridloss,
    AugMix: augmix,
    PerturbedMixing: perturbed,
}
