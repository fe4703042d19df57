"""The step of every method, written once more as a plain loop for a model with the layers ``conv`` and ``fc``."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mixwell import (
    AlignMix,
    AugMix,
    BatchPolicy,
    GridLoss,
    HiddenMix,
    LabelPolicy,
    Method,
    MixedBatch,
    Mixing,
    NoMix,
    PerturbedMixing,
    RegMixup,
    SemanticShare,
    SUMix,
    View,
    jensen_shannon,
)
from mixwell.features.mixing import mix_features
from mixwell.ops.sinkhorn import log_transport, mix_aligned, squared_distances

Parts = tuple[BatchPolicy, LabelPolicy, Callable[[Tensor, MixedBatch], Tensor]]
Step = Callable[[Method, Tensor, Tensor, Parts], Tensor]


def judged(method: Method, mixed: MixedBatch, logits: Tensor, images: Tensor, parts: Parts) -> Tensor:
    """Return the loss of logits after the label policy."""
    clean = method.model(images).detach()
    return parts[2](logits, mixed.with_weights(parts[1](mixed, View(logits.detach(), clean))))


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
    logits, clean = method.model(mixed.images), clean_grad(method.model(images))
    weights = label(mixed, View(logits.detach(), clean.detach()))
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
    total = 0.0
    for row in range(len(images)):
        for k in range(2):
            source = mixed.plan.sources[row, k]
            penalty = heads[0][source] + heads[1][row] + distances[row, k]
            log_p = ((-penalty).exp() if method.published else -penalty).log_softmax(0)
            wanted = labels[source] if labels.dim() == 2 else F.one_hot(labels[source], len(log_p)).float()
            total = total - mixed.weights[row, k] * (wanted / wanted.sum().clamp_min(1e-12) * log_p).sum()
    return main + method.gamma * total / len(images)


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
    else:
        logits = method.model(plan.apply(images))
    return judged(method, labelled(plan, images, labels), logits, images, parts)


def gridloss(method: GridLoss, images: Tensor, labels: Tensor, parts: Parts) -> Tensor:
    mixed = parts[0](images, labels)
    logits = method.model(mixed.images)
    maps, share = method.model.conv(mixed.images), mixed.plan.share(tuple(images.shape[2:]))
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
    logits = [method.model(plan.apply(x)) for x in (images, method.views(images), method.views(images))]
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


STEPS: dict[type[Method], Step] = {
    Mixing: mixing,
    SUMix: sumix,
    RegMixup: regmixup,
    HiddenMix: hiddenmix,
    AlignMix: alignmix,
    GridLoss: gridloss,
    AugMix: augmix,
    PerturbedMixing: perturbed,
}
