"""Mixed batches of nothing but labels and weights, which is all that a loss may read."""

from __future__ import annotations

import types

import torch
from torch import Tensor

from mixwell import MixedBatch

B, K, N = 7, 3, 5
PLAN = types.SimpleNamespace()  # made here: some versions of torch cannot compile what makes one


def batch(labels: Tensor, weights: Tensor) -> MixedBatch:
    """Make a mixed batch of nothing but labels and weights."""
    nothing = torch.zeros(len(labels), 1, 1, 1)
    return MixedBatch(nothing, labels, weights, PLAN)


def random_batch(kind: str, k: int = K) -> MixedBatch:
    """Draw labels and weights; rows of weights sum to one, or to anything."""
    weights = torch.rand(B, k)
    if kind != "loose":
        weights = weights / weights.sum(1, keepdim=True)
    dense = kind == "dense"
    labels = torch.rand(B, k, N).softmax(2) if dense else torch.randint(N, (B, k))
    if not dense:
        labels[0] = 2  # sources that share a class
    return batch(labels, weights)
