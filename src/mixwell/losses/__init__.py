"""Losses of mixed batches, as objects with settings and as functions."""

from mixwell.losses.binary import BinaryCrossEntropy as BinaryCrossEntropy
from mixwell.losses.binary import binary_cross_entropy as binary_cross_entropy
from mixwell.losses.binary import target_weights as target_weights
from mixwell.losses.decoupled import DecoupledCrossEntropy as DecoupledCrossEntropy
from mixwell.losses.softmax import CrossEntropy as CrossEntropy
from mixwell.losses.softmax import FocalLoss as FocalLoss
from mixwell.losses.softmax import Loss as Loss
from mixwell.losses.softmax import cross_entropy as cross_entropy
