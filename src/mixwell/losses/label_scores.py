"""Log-probabilities of a few labels per row, with a gradient that needs no dense targets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class LabelScores(torch.autograd.Function):
    """Return ``log_softmax(logits)`` at the labels ``(B, K)``, and its mean over the classes in one more column.

    Autograd would keep the log-probabilities of all classes, and fill a matrix of zeros with the gradients of the few
    that are used. Here backward computes the softmax once and turns it into the gradient in place: one matrix
    ``(B, N)`` instead of three. Second derivatives work.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, mean: bool) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(logits, labels)
        ctx.mean = mean
        log_p = logits.log_softmax(1)
        scores = log_p.gather(1, labels)
        return torch.cat((scores, log_p.mean(1, keepdim=True)), 1) if mean else scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, labels = ctx.saved_tensors
        total, at_labels = -grad.sum(1, keepdim=True), grad
        spread = None
        if ctx.mean:
            at_labels, spread = grad[:, :-1], grad[:, -1:] / logits.shape[1]
        if torch.is_grad_enabled():  # create_graph=True
            found = (logits.softmax(1) * total).scatter_add(1, labels, at_labels)
            return found if spread is None else found + spread, None, None
        found = logits.softmax(1).mul_(total).scatter_add_(1, labels, at_labels)
        return found if spread is None else found.add_(spread), None, None


def label_scores(logits: Tensor, labels: Tensor, mean: bool = False) -> Tensor:
    """Return the log-probabilities of labels ``(B, K)``, and with ``mean`` the mean over all classes as a last column.

    Args:
        logits: Shape ``(B, N)``, float32.
        labels: Class indices, shape ``(B, K)``.
        mean: Whether to add the mean over the classes, which label smoothing needs.

    Returns:
        Shape ``(B, K)`` or ``(B, K + 1)``.

    Example:
        >>> label_scores(torch.zeros(1, 4), torch.tensor([[0, 3]]))
        tensor([[-1.3863, -1.3863]])
    """
    if not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()):
        return LabelScores.apply(logits, labels, mean)  # type: ignore[return-value]
    log_p = logits.log_softmax(1)  # a compiler makes one pass of this by itself
    scores = log_p.gather(1, labels)
    return torch.cat((scores, log_p.mean(1, keepdim=True)), 1) if mean else scores
