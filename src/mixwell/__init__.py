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
from mixwell.pairing import Derangement, Given, Greedy, Pairing, Permutation, Reverse, Roll
from mixwell.plan import BlendPlan, BoxPlan, ChoicePlan, MaskPlan, PatchPlan, Plan, choose_per_sample
from mixwell.policies import (
    AttentiveMix,
    CutMix,
    FMix,
    GridMix,
    GridMixup,
    GuidedMix,
    MixUp,
    ResizeMix,
    SaliencyMix,
    SmoothMix,
    SnapMix,
)
from mixwell.policy import BatchPolicy, NoMix, OneOf, Policy, Sometimes
from mixwell.ratio import Beta, Constant, Folded, Ratio, Uniform
from mixwell.saliency import Activation, ClassActivation, FineGrained, InputGradient, Saliency, SpectralResidual
from mixwell.spec import names, parse
from mixwell.taps import Tap, classifier_of, pooled
from mixwell.targets import ExponentialRescale, PowerRescale, SoftTargets, Targets, ThresholdTargets, TwoHotTargets
from mixwell.value import Value

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "AttentiveMix",
    "Batch",
    "BatchPolicy",
    "Beta",
    "BlendPlan",
    "BoxPlan",
    "ChoicePlan",
    "ClassActivation",
    "Constant",
    "CutMix",
    "Derangement",
    "ExponentialRescale",
    "FMix",
    "FineGrained",
    "Folded",
    "Given",
    "Greedy",
    "GridMix",
    "GridMixup",
    "GuidedMix",
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
    "SmoothMix",
    "SnapMix",
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
