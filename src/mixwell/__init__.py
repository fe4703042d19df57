"""Mix samples and labels, and train stronger image classifiers with it."""

from mixwell.batch import Batch, MixedBatch, Pairs
from mixwell.labels import LabelPolicy, PixelShare, SemanticShare, View
from mixwell.losses import binary_cross_entropy, cross_entropy, target_weights
from mixwell.methods import Method, Mixing, SUMix, UncertaintyHead, sumix_terms
from mixwell.metrics import (
    expected_calibration_error,
    mixed_accuracy,
    negative_log_likelihood,
    ranked_accuracy,
    top_k_accuracy,
)
from mixwell.pairing import Derangement, Given, Pairing, Permutation, Reverse, Roll
from mixwell.plan import BlendPlan, BoxPlan, ChoicePlan, MaskPlan, PatchPlan, Plan, choose_per_sample
from mixwell.policies import CutMix, FMix, MixUp, ResizeMix, SaliencyMix
from mixwell.policy import BatchPolicy, NoMix, OneOf, Policy, Sometimes
from mixwell.ratio import Beta, Constant, Folded, Ratio, Uniform
from mixwell.saliency import FineGrained, InputGradient, Saliency, SpectralResidual
from mixwell.spec import names, parse
from mixwell.taps import Tap, classifier_of, pooled
from mixwell.targets import ExponentialRescale, PowerRescale, SoftTargets, Targets, ThresholdTargets, TwoHotTargets
from mixwell.value import Value

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchPolicy",
    "Beta",
    "BlendPlan",
    "BoxPlan",
    "ChoicePlan",
    "Constant",
    "CutMix",
    "Derangement",
    "ExponentialRescale",
    "FMix",
    "FineGrained",
    "Folded",
    "Given",
    "InputGradient",
    "LabelPolicy",
    "MaskPlan",
    "Method",
    "MixUp",
    "MixedBatch",
    "Mixing",
    "NoMix",
    "OneOf",
    "Pairing",
    "Pairs",
    "PatchPlan",
    "Permutation",
    "PixelShare",
    "Plan",
    "Policy",
    "PowerRescale",
    "Ratio",
    "ResizeMix",
    "Reverse",
    "Roll",
    "SUMix",
    "Saliency",
    "SaliencyMix",
    "SemanticShare",
    "SoftTargets",
    "Sometimes",
    "SpectralResidual",
    "Tap",
    "Targets",
    "ThresholdTargets",
    "TwoHotTargets",
    "UncertaintyHead",
    "Uniform",
    "Value",
    "View",
    "binary_cross_entropy",
    "choose_per_sample",
    "classifier_of",
    "cross_entropy",
    "expected_calibration_error",
    "mixed_accuracy",
    "names",
    "negative_log_likelihood",
    "parse",
    "pooled",
    "ranked_accuracy",
    "sumix_terms",
    "target_weights",
    "top_k_accuracy",
]
