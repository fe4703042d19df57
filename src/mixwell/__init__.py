"""Mix samples and labels to train stronger image classifiers."""

import sys
from typing import NoReturn

if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "mixwell":  # python -m mixwell: help without torch
    import mixwell_cli

    mixwell_cli.answer_and_exit(sys.argv[1:])

from mixwell.batch import Batch, MixedBatch, Pairs
from mixwell.ema import EMA
from mixwell.features.layers import classifier_of
from mixwell.features.maps import pooled
from mixwell.features.passes import FeatureHook
from mixwell.labels import (
    ActivationShare,
    AttentionShare,
    LabelPolicy,
    LUMixShare,
    ObjectShare,
    PixelShare,
    ProgressiveAttentionShare,
    RatioShare,
    SaliencyShare,
    SemanticShare,
    TokenLabelAlignment,
    View,
)
from mixwell.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    DecoupledCrossEntropy,
    FocalLoss,
    Loss,
    binary_cross_entropy,
    cross_entropy,
    target_weights,
)
from mixwell.methods import (
    AdAutoMix,
    AlignMix,
    AugMix,
    AugMixViews,
    AutoMix,
    GridLoss,
    HiddenMix,
    LearnedMask,
    Method,
    Mixing,
    PerturbedMixing,
    RegionLoss,
    RegMixup,
    SAMix,
    SAMixPretrained,
    SUMix,
    UncertaintyHead,
    jensen_shannon,
    save_mask,
    sumix_terms,
)
from mixwell.metrics import (
    expected_calibration_error,
    label_error,
    mixed_accuracy,
    negative_log_likelihood,
    ranked_accuracy,
    top_k_accuracy,
    visible_objects,
)
from mixwell.mixers.mixblock import MixBlock, PairAttention
from mixwell.mixtargets import MixTargets
from mixwell.normalization import CIFAR10, CIFAR100, IMAGENET, Normalization
from mixwell.pairing import Derangement, Given, Greedy, Pairing, Permutation, Reverse, Roll
from mixwell.parse import names, nearest, parse
from mixwell.plan import BlendPlan, BoxPlan, ChoicePlan, MaskPlan, PatchPlan, Plan, SharePlan, choose_per_sample
from mixwell.policies import (
    AttentiveMix,
    CutMix,
    FMix,
    GridMix,
    GridMixup,
    GuidedMix,
    MaskMix,
    MergeMix,
    MixUp,
    PuzzleMix,
    ResizeMix,
    SaliencyMix,
    SMMix,
    SmoothMix,
    SnapMix,
    Switch,
    TokenMix,
    random_mix,
    switch_mix,
    until,
)
from mixwell.policy import BatchPolicy, NoMix, OneOf, Policy, Sometimes
from mixwell.ratio import Beta, Constant, Folded, Ratio, Uniform
from mixwell.saliency import (
    Activation,
    Attention,
    ClassActivation,
    FineGrained,
    InputGradient,
    Saliency,
    SpectralResidual,
)
from mixwell.schedule import Cosine, Linear, Schedule, Step
from mixwell.step_guard import StepGuard
from mixwell.targets import ExponentialRescale, PowerRescale, SoftTargets, Targets, ThresholdTargets, TwoHotTargets
from mixwell.value import Value

__version__ = "0.1.0"

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "EMA",
    "IMAGENET",
    "Activation",
    "ActivationShare",
    "AdAutoMix",
    "AlignMix",
    "Attention",
    "AttentionShare",
    "AttentiveMix",
    "AugMix",
    "AugMixViews",
    "AutoMix",
    "Batch",
    "BatchPolicy",
    "Beta",
    "BinaryCrossEntropy",
    "BlendPlan",
    "BoxPlan",
    "ChoicePlan",
    "ClassActivation",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "CutMix",
    "DecoupledCrossEntropy",
    "Derangement",
    "ExponentialRescale",
    "FMix",
    "FeatureHook",
    "FineGrained",
    "FocalLoss",
    "Folded",
    "Given",
    "Greedy",
    "GridLoss",
    "GridMix",
    "GridMixup",
    "GuidedMix",
    "HiddenMix",
    "InputGradient",
    "LUMixShare",
    "LabelPolicy",
    "LearnedMask",
    "Linear",
    "Loss",
    "MaskMix",
    "MaskPlan",
    "MergeMix",
    "Method",
    "MixBlock",
    "MixTargets",
    "MixUp",
    "MixedBatch",
    "Mixing",
    "NoMix",
    "Normalization",
    "ObjectShare",
    "OneOf",
    "PairAttention",
    "Pairing",
    "Pairs",
    "PatchPlan",
    "Permutation",
    "PerturbedMixing",
    "PixelShare",
    "Plan",
    "Policy",
    "PowerRescale",
    "ProgressiveAttentionShare",
    "PuzzleMix",
    "Ratio",
    "RatioShare",
    "RegMixup",
    "RegionLoss",
    "ResizeMix",
    "Reverse",
    "Roll",
    "SAMix",
    "SAMixPretrained",
    "SMMix",
    "SUMix",
    "Saliency",
    "SaliencyMix",
    "SaliencyShare",
    "Schedule",
    "SemanticShare",
    "SharePlan",
    "SmoothMix",
    "SnapMix",
    "SoftTargets",
    "Sometimes",
    "SpectralResidual",
    "Step",
    "StepGuard",
    "Switch",
    "Targets",
    "ThresholdTargets",
    "TokenLabelAlignment",
    "TokenMix",
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
    "jensen_shannon",
    "label_error",
    "mixed_accuracy",
    "names",
    "negative_log_likelihood",
    "parse",
    "pooled",
    "random_mix",
    "ranked_accuracy",
    "save_mask",
    "sumix_terms",
    "switch_mix",
    "target_weights",
    "top_k_accuracy",
    "until",
    "visible_objects",
]


def __getattr__(name: str) -> NoReturn:
    """Raise with the nearest public name."""
    if name.startswith("_"):
        raise AttributeError(f"module 'mixwell' has no attribute {name!r}")
    raise AttributeError(f"module 'mixwell' has no attribute {name!r}{nearest(name, __all__)}")
