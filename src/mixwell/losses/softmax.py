"""The base of losses, and softmax losses: cross entropy and focal loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mixwell.batch import MixedBatch
from mixwell.typecheck import BelowOne, NonNegativeFloat, Within
from mixwell.value import Value


class Loss(Value, ABC):
    """A loss with its settings. Any callable with the same arguments serves as ``loss=`` of a method."""

    @abstractmethod
    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Args:
            logits: Shape ``(B, N)``.
            mixed: The mixed batch, with the weights of the label policy.
        """


class CrossEntropy(Loss):
    """Softmax cross entropy of every source's label, weighted per sample; see :func:`cross_entropy`.

    Args:
        smoothing: Label smoothing, in [0, 1).
        weight: Weight of each class, or None for equal weights.
        ignore_index: Label of sources that do not contribute, or None.

    Raises:
        ValueError: The smoothing is out of range, or a class weight is negative or not finite.

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> CrossEntropy(smoothing=0.1)(torch.zeros(4, 10), mixed)
        tensor(2.3026)
    """

    smoothing: BelowOne = 0.0
    weight: tuple[NonNegativeFloat, ...] | None = None
    ignore_index: int | None = None

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        return cross_entropy(logits, mixed, self.smoothing, weight=self.weight, ignore_index=self.ignore_index)


class FocalLoss(Loss):
    """Softmax focal loss of every source's label: ``sum_k w_k (1 - p_k) ** gamma CE_k``, the mean over the batch.

    Samples that the model already classifies well count less. ``p_k`` is the predicted probability of source k's label;
    for dense labels the sum runs over all classes with their labels as weights.

    Args:
        gamma: Focusing exponent, at least 0; 0 is :class:`CrossEntropy`.
        weight: Weight of each class (the paper's alpha), or None for equal weights.
        ignore_index: Label of sources that do not contribute, or None.

    Raises:
        ValueError: ``gamma`` is negative, or a class weight is negative or not finite.

    Source: Lin et al., *Focal Loss for Dense Object Detection*, ICCV 2017 (arXiv:1708.02002).

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> FocalLoss(gamma=2.0)(torch.zeros(4, 10), mixed)
        tensor(1.8651)
    """

    gamma: NonNegativeFloat = 2.0
    weight: tuple[NonNegativeFloat, ...] | None = None
    ignore_index: int | None = None

    def __call__(self, logits: Tensor, mixed: MixedBatch) -> Tensor:
        mixed, left = without(mixed, self.ignore_index)
        check_shape(logits, mixed)
        _check_labels(logits, mixed)
        log_p = logits.float().log_softmax(1)
        scores = _class_weighted(
            (-log_p.expm1()).clamp_min(torch.finfo(torch.float32).tiny) ** self.gamma * log_p, self.weight
        )
        return reduced(_of_sources(scores, mixed.labels, mixed.weights), "mean", left)


def cross_entropy(
    logits: Tensor,
    mixed: MixedBatch,
    smoothing: float = 0.0,
    reduction: str = "mean",
    *,
    weight: Sequence[float] | Tensor | None = None,
    ignore_index: int | None = None,
    published: bool = False,
) -> Tensor:
    """Cross entropy of every source's label, weighted per sample.

    ``sum_k w_k CE(logits, y_k)``, in float32: equal to the cross entropy of dense soft targets, which are not built.

    Args:
        logits: Shape ``(B, N)``.
        mixed: The mixed batch.
        smoothing: Share of the labels' mass spread evenly over all classes, in [0, 1). Smooth here or in
            ``mixed.targets``, not in both.
        reduction: ``"mean"`` over the samples (not over their class weights, as in torch), ``"sum"`` or ``"none"``.
        weight: Weight of each class, shape ``(N,)``, or None for equal weights.
        ignore_index: Label of sources that do not contribute, or None. The mean then divides by the share of label
            mass that is left, which for unmixed labels is torch's mean; it is 0 if nothing is left.
        published: Replace every sample's weights by the batch's mean, as OpenMixup's heads do, for parity only.

    Returns:
        A scalar, or the loss of every sample ``(B,)``.

    Raises:
        TypeError: The logits are not a tensor, or ``mixed`` is not a mixed batch.
        ValueError: Logits do not fit the batch, a setting is wrong or, checked on the CPU only, a label is out of range
            or a row of dense labels does not sum to one.

    Example:
        >>> from mixwell import MixUp
        >>> mixed = MixUp()(torch.rand(4, 3, 8, 8), torch.arange(4))
        >>> cross_entropy(torch.zeros(4, 10), mixed)
        tensor(2.3026)
    """
    if smoothing:
        check_smoothing(smoothing)
    check_shape(logits, mixed)
    if weight is None and ignore_index is None and reduction == "mean" and not published and _fits(mixed):
        try:  # torch checks the labels while it looks them up: checking them before takes a twentieth of the time
            return _weighted_cross_entropy(logits.float(), mixed.labels, mixed.weights, smoothing)
        except RuntimeError:
            mixed.check_classes(logits.shape[1])
            raise
    mixed, left = without(mixed, ignore_index)
    weights = mixed.weights.mean(0, keepdim=True).expand_as(mixed.weights) if published else mixed.weights
    _check_labels(logits, mixed)
    scores = _class_weighted(logits.float().log_softmax(1), weight)
    terms = _of_sources(scores, mixed.labels, weights)
    if smoothing:
        terms = torch.cat((terms * (1 - smoothing), smoothing * weights * scores.mean(1, keepdim=True)), 1)
    return reduced(terms, reduction, left)


def _fits(mixed: MixedBatch) -> bool:
    """Say whether :class:`WeightedCrossEntropy` can be used: compilers, torch.func and forward mode need a formula."""
    if mixed.labels.dim() != 2 or mixed.weights.requires_grad or torch.compiler.is_compiling():
        return False
    return forward_ad._current_level < 0 and not torch._C._are_functorch_transforms_active()


class WeightedCrossEntropy(torch.autograd.Function):
    """``mean_i sum_k w_ik CE(logits_i, y_ik)``, with label smoothing.

    Autograd would fill a matrix of zeros with the gradients of the few log-probabilities that are used. Here backward
    turns probabilities into the gradient in place. Second derivatives work.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float) -> Tensor:
        log_p = logits.log_softmax(1)
        # The factors of the labels' scores: what smoothing leaves of their weights.
        own = weights * ((smoothing - 1) / logits.shape[0])
        loss = torch.dot(log_p.gather(1, labels).reshape(-1), own.reshape(-1))
        if smoothing:
            share = smoothing / (1 - smoothing) / log_p.shape[1]  # of each class, as a factor of all labels' factors
            loss = torch.add(loss, torch.dot(log_p.sum(1), own.sum(1)), alpha=share)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(log_p, logits, labels, own)
            ctx.smoothing = smoothing
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[override]
        log_p, logits, labels, own = ctx.saved_tensors
        own = own * grad
        # create_graph=True: a function of the logits, and a copy, because autograd keeps what softmax returned
        probabilities = logits.softmax(1).clone() if torch.is_grad_enabled() else log_p.exp()
        if ctx.smoothing:
            probabilities.sub_(ctx.smoothing / log_p.shape[1])
        total = own.sum(1, keepdim=True).div_(ctx.smoothing - 1)
        return probabilities.mul_(total).scatter_add_(1, labels, own), None, None, None


# Function.apply without its support for torch.func, which takes a tenth of the time of a small loss.
_weighted_cross_entropy: Callable[..., Tensor] = super(torch.autograd.Function, WeightedCrossEntropy).apply  # type: ignore[misc]


def check_logits(logits: Tensor, mixed: MixedBatch) -> None:
    """Raise unless there is a row of logits for every mixed image and a column for every label.

    Args:
        logits: What the model returned.
        mixed: The mixed batch.
    """
    check_shape(logits, mixed)
    mixed.check_classes(logits.shape[1])


def check_shape(logits: Tensor, mixed: MixedBatch) -> None:
    """Raise unless there is a row of logits for every mixed image."""
    if not isinstance(logits, Tensor):
        got = type(logits).__name__
        raise TypeError(
            f"logits must be a tensor of shape (B, N), but got {got}: wrap the model so that it returns one."
        )
    if not hasattr(mixed, "weights"):
        raise TypeError(f"mixed must be the mixed batch that a policy returns, but got {type(mixed).__name__}.")
    if logits.dim() != 2 or logits.shape[0] != mixed.weights.shape[0]:
        raise ValueError(f"logits must have shape ({len(mixed.weights)}, N), but got {tuple(logits.shape)}.")


def _check_labels(logits: Tensor, mixed: MixedBatch) -> None:
    """Raise unless labels fit the logits, and dense labels of each source sum to one (checked on the CPU only)."""
    mixed.check_classes(logits.shape[1])
    if mixed.labels.dim() == 3 and mixed.labels.is_cpu and not torch.compiler.is_compiling():
        mass = mixed.labels.detach().float().sum(2)
        wrong = (mass - 1).abs() > _MASS_TOLERANCE
        if wrong.any():
            raise ValueError(
                "A softmax loss needs dense labels whose rows sum to one, but got a row that sums to "
                f"{mass[wrong][0].item():.4g}: use BinaryCrossEntropy() for multi-label data."
            )


def check_smoothing(smoothing: float) -> None:
    """Raise unless smoothing lies in [0, 1)."""
    Within(0, 1, below=True).check("smoothing", smoothing)


_TINY = torch.finfo(torch.float32).eps
_MASS_TOLERANCE = 0.02  # rows of bfloat16 labels are only that close to one


def without(mixed: MixedBatch, ignore_index: int | None) -> tuple[MixedBatch, Tensor | None]:
    """Return a mixed batch whose ignored labels have weight 0, and class 0 so that they can be looked up.

    Args:
        mixed: The mixed batch.
        ignore_index: The label to ignore, or None.

    Returns:
        The batch, and the share of the weight that is left, a scalar; None if no label can be ignored.

    Example:
        >>> from mixwell import NoMix
        >>> mixed, left = without(NoMix()(torch.rand(2, 3, 4, 4), torch.tensor([1, -100])), -100)
        >>> mixed.labels[:, 0].tolist(), left
        ([1, 0], tensor(0.5000))
    """
    if ignore_index is None or mixed.labels.dim() == 3:
        return mixed, None
    ignored = mixed.labels == ignore_index
    weights, labels = mixed.weights.masked_fill(ignored, 0.0), mixed.labels.masked_fill(ignored, 0)
    left = weights.sum() / mixed.weights.sum().clamp_min(_TINY)
    return MixedBatch(mixed.images, labels, weights, mixed.plan), left


def _class_weighted(scores: Tensor, weight: Sequence[float] | Tensor | None) -> Tensor:
    """Multiply scores ``(B, N)`` by the weights of the classes."""
    if weight is None:
        return scores
    factors = torch.as_tensor(weight, dtype=scores.dtype).to(scores.device, non_blocking=True)
    if factors.shape != scores.shape[1:]:
        raise ValueError(f"weight must hold one number for each of {scores.shape[1]} classes, but got {len(weight)}.")
    return scores * factors


def _of_sources(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return terms whose sum over a row is the weighted score ``(B, N)`` of that row's labels."""
    if labels.dim() == 2:
        return weights * scores.gather(1, labels)
    return (weights[..., None] * labels.float()).sum(1) * scores  # autocast would run einsum in bfloat16


def reduced(terms: Tensor, reduction: str, left: Tensor | None = None) -> Tensor:
    """Return the loss: minus the sum over each row of terms, reduced over the batch.

    Args:
        terms: Shape ``(B, T)``.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        left: Share of the label weight that is not ignored, by which the mean divides; None if all of it counts.
    """
    if reduction == "none":
        return -terms.sum(1)
    if reduction == "sum":
        return -terms.sum()
    if reduction != "mean":
        raise ValueError(f"reduction must be mean, sum or none, but got {reduction!r}.")
    mean = terms.sum() / -len(terms)
    return mean if left is None else mean / left.clamp_min(_TINY)
