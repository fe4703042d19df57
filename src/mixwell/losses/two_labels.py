"""The mean cross entropy of a few weighted labels per row, with a gradient that needs no dense targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class WeightedCrossEntropy(torch.autograd.Function):
    """``mean_i sum_k w_ik CE(logits_i, y_ik)``, with label smoothing.

    Autograd would keep the log-probabilities of all classes and fill a matrix of zeros with the gradients of the few
    that are used. Here forward turns the log-probabilities into the gradient in place, and backward only scales it.
    Second derivatives work.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
        log_p = logits.log_softmax(1)
        weights = weights / -len(logits)
        loss = torch.vdot(log_p.gather(1, labels).flatten(), weights.flatten())
        if smoothing:
            loss = loss * (1 - smoothing) + smoothing * torch.vdot(log_p.mean(1), weights.sum(1))
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(_gradient(log_p.exp_(), labels, weights, smoothing), logits, labels, weights)
            ctx.smoothing = smoothing
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        gradient, logits, labels, weights = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: computed again, as a function of the logits
            gradient = _gradient(logits.softmax(1).clone(), labels, weights, ctx.smoothing)
        return gradient * grad, None, None, None


def _gradient(probabilities: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
    """Turn probabilities ``(B, N)`` into the gradient of the loss in place; weights are those of minus the score."""
    total = weights.sum(1, keepdim=True)
    gradient = probabilities.mul_(-total).scatter_add_(1, labels, weights * (1 - smoothing) if smoothing else weights)
    return gradient.add_(total, alpha=smoothing / gradient.shape[1]) if smoothing else gradient


def fits(labels: Tensor, weights: Tensor) -> bool:
    """Return whether labels are class indices whose weights are constants, outside of compilers and ``torch.func``.

    A compiler fuses the plain formula by itself.
    """
    transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return labels.dim() == 2 and not weights.requires_grad and not transformed
