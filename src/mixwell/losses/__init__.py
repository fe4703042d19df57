"""Losses of mixed batches, as objects with settings and as functions."""

from mixwell.losses.binary import BinaryCrossEntropy, binary_cross_entropy, target_weights
from mixwell.losses.decoupled import DecoupledCrossEntropy
from mixwell.losses.softmax import CrossEntropy, FocalLoss, Loss, check_logits, check_smoothing, cross_entropy

__all__ = [
    "BinaryCrossEntropy",
    "CrossEntropy",
    "DecoupledCrossEntropy",
    "FocalLoss",
    "Loss",
    "binary_cross_entropy",
    "check_logits",
    "check_smoothing",
    "cross_entropy",
    "target_weights",
]
