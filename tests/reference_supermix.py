"""SuperMix again, slowly: one image after the other, with derivatives written out in float64."""

from __future__ import annotations

import numpy as np
import torch

import mixwell as mw
from cases import fixed_classifier
from reference_saliency import blurred
from slow_plans import WEIGHTS, Drawn, Mixed, shared


def upsampling(cells: int, side: int) -> np.ndarray:
    """Return the matrix of bilinear interpolation along one side."""
    matrix = np.zeros((side, cells))
    for pixel in range(side):
        for cell, weight in WEIGHTS["bilinear"](pixel, side, cells).items():
            matrix[pixel, cell] = weight
    return matrix


def predict(image: np.ndarray) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
    """Return the logits of the teacher, in eval mode, and what a gradient needs."""
    pixels = torch.tensor(image[None], dtype=torch.float32, requires_grad=True)
    logits = fixed_classifier().eval()(pixels)
    return logits[0].detach().double().numpy(), logits, pixels


def shares_of(masks: np.ndarray, up: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sigmoids of interpolated masks (K, h, w), and the shares (K, H, W)."""
    sigmoids = 1 / (1 + np.exp(-np.einsum("yi,kij,xj->kyx", up[0], masks, up[1])))
    return sigmoids, sigmoids / sigmoids.sum(0)


def finished(logits: np.ndarray, target: np.ndarray) -> bool:
    """Tell whether the most probable classes are the classes of the target."""
    wanted = set(np.flatnonzero(target).tolist())
    return set(np.argsort(-logits)[: len(wanted)].tolist()) == wanted


def optimised(policy: mw.SuperMix, sources: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the shares (K, H, W) of one mixed image."""
    k, _, high, wide = sources.shape
    up = [upsampling(policy.cells, side) for side in (high, wide)]
    masks = np.zeros((k, policy.cells, policy.cells))
    for step in range(policy.max_iter):
        sigmoids, shares = shares_of(masks, up)
        predicted, logits, pixels = predict((shares[:, None] * sources).sum(0))
        if step and finished(predicted, target):
            break
        log_p = predicted - np.log(np.exp(predicted - predicted.max()).sum()) - predicted.max()
        here = target > 0
        loss = (target[here] * (np.log(target[here]) - log_p[here])).sum()
        loss += policy.sparsity * (shares * (1 - shares)).mean()
        by_logit = torch.tensor(np.exp(log_p) * target.sum() - target, dtype=torch.float32)
        (by_pixel,) = torch.autograd.grad(logits, pixels, by_logit[None])
        by_share = (by_pixel.double().numpy() * sources).sum(1) + policy.sparsity * (1 - 2 * shares) / shares.size
        total = sigmoids.sum(0)
        by_sigmoid = by_share / total - (by_share * sigmoids).sum(0) / total**2
        gradient = np.einsum("yi,kyx,xj->kij", up[0], by_sigmoid * sigmoids * (1 - sigmoids), up[1])
        smooth = np.stack([blurred(each, 2 * int(2.5 * policy.sigma) + 1, policy.sigma) for each in gradient])
        masks = masks - np.clip(loss / ((gradient * smooth).sum() + 1e-10), 1e-4, 2000) * smooth
    return shares_of(masks, up)[1]


def supermix(policy: mw.SuperMix, d: Drawn) -> Mixed:
    """Dabouei et al. 2021; the weights besides the first are equal here."""
    pixels = d.images.double().numpy() / (255 if d.images.dtype == torch.uint8 else 1)
    classes = [predict(image)[0].argmax() for image in pixels]
    following, chains, weights, shares = dict(d.sources), [], [], []
    for row, lam in enumerate(d.lam):
        chain = [row]
        while len(chain) < policy.sources:
            chain.append(following[chain[-1]])
        weight = np.array([lam] + [(1 - lam) / (policy.sources - 1)] * (policy.sources - 1))
        target = np.zeros(len(predict(pixels[row])[0]))
        for source, part in zip(chain, weight, strict=True):
            target[classes[source]] += part
        found = optimised(policy, pixels[chain], target)
        shares.append(np.broadcast_to(weight[:, None, None], found.shape) if (weight == 1).any() else found)
        chains.append(chain)
        weights.append(weight.tolist())
    mixed = shared(d.images, chains, d.lam, [share.tolist() for share in shares])
    return mixed._replace(weights=torch.tensor(weights, dtype=torch.float32))
