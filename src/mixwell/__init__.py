"""Mix samples and labels to train stronger image classifiers."""

import sys
from typing import NoReturn

if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] == "mixwell":  # python -m mixwell: help without torch
    import mixwell_cli

    mixwell_cli.answer_and_exit(sys.argv[1:])

from mixwell.anyshape import AnyShape as AnyShape
from mixwell.batch import Batch as Batch
from mixwell.batch import MixedBatch as MixedBatch
from mixwell.batch import Pairs as Pairs
from mixwell.ema import EMA as EMA
from mixwell.features.layers import classifier_of as classifier_of
from mixwell.features.maps import pooled as pooled
from mixwell.features.passes import FeatureHook as FeatureHook
from mixwell.labels import ActivationShare as ActivationShare
from mixwell.labels import AttentionShare as AttentionShare
from mixwell.labels import LabelPolicy as LabelPolicy
from mixwell.labels import LUMixShare as LUMixShare
from mixwell.labels import ObjectShare as ObjectShare
from mixwell.labels import PixelShare as PixelShare
from mixwell.labels import ProgressiveAttentionShare as ProgressiveAttentionShare
from mixwell.labels import RatioShare as RatioShare
from mixwell.labels import SaliencyShare as SaliencyShare
from mixwell.labels import SemanticShare as SemanticShare
from mixwell.labels import TokenLabelAlignment as TokenLabelAlignment
from mixwell.labels import View as View
from mixwell.losses import BinaryCrossEntropy as BinaryCrossEntropy
from mixwell.losses import CrossEntropy as CrossEntropy
from mixwell.losses import DecoupledCrossEntropy as DecoupledCrossEntropy
from mixwell.losses import FocalLoss as FocalLoss
from mixwell.losses import Loss as Loss
from mixwell.losses import binary_cross_entropy as binary_cross_entropy
from mixwell.losses import cross_entropy as cross_entropy
from mixwell.losses import target_weights as target_weights
from mixwell.methods import AdAutoMix as AdAutoMix
from mixwell.methods import AlignMix as AlignMix
from mixwell.methods import AugMix as AugMix
from mixwell.methods import AugMixViews as AugMixViews
from mixwell.methods import AutoMix as AutoMix
from mixwell.methods import GridLoss as GridLoss
from mixwell.methods import HiddenMix as HiddenMix
from mixwell.methods import LearnedMask as LearnedMask
from mixwell.methods import Method as Method
from mixwell.methods import Mixing as Mixing
from mixwell.methods import PerturbedMixing as PerturbedMixing
from mixwell.methods import RegionLoss as RegionLoss
from mixwell.methods import RegMixup as RegMixup
from mixwell.methods import SAMix as SAMix
from mixwell.methods import SAMixPretrained as SAMixPretrained
from mixwell.methods import SUMix as SUMix
from mixwell.methods import UncertaintyHead as UncertaintyHead
from mixwell.methods import jensen_shannon as jensen_shannon
from mixwell.methods import save_mask as save_mask
from mixwell.methods import sumix_terms as sumix_terms
from mixwell.metrics import expected_calibration_error as expected_calibration_error
from mixwell.metrics import label_error as label_error
from mixwell.metrics import mixed_accuracy as mixed_accuracy
from mixwell.metrics import negative_log_likelihood as negative_log_likelihood
from mixwell.metrics import ranked_accuracy as ranked_accuracy
from mixwell.metrics import top_k_accuracy as top_k_accuracy
from mixwell.metrics import visible_objects as visible_objects
from mixwell.mixers.mixblock import MixBlock as MixBlock
from mixwell.mixers.mixblock import PairAttention as PairAttention
from mixwell.mixtargets import MixTargets as MixTargets
from mixwell.normalization import CIFAR10 as CIFAR10
from mixwell.normalization import CIFAR100 as CIFAR100
from mixwell.normalization import IMAGENET as IMAGENET
from mixwell.normalization import Normalization as Normalization
from mixwell.pairing import Derangement as Derangement
from mixwell.pairing import Given as Given
from mixwell.pairing import Greedy as Greedy
from mixwell.pairing import LabelDistance as LabelDistance
from mixwell.pairing import Pairing as Pairing
from mixwell.pairing import Permutation as Permutation
from mixwell.pairing import Reverse as Reverse
from mixwell.pairing import Roll as Roll
from mixwell.parse import names as names
from mixwell.parse import nearest as _nearest
from mixwell.parse import parse as parse
from mixwell.plan import BlendPlan as BlendPlan
from mixwell.plan import BoxPlan as BoxPlan
from mixwell.plan import ChoicePlan as ChoicePlan
from mixwell.plan import MaskPlan as MaskPlan
from mixwell.plan import MosaicPlan as MosaicPlan
from mixwell.plan import PatchPlan as PatchPlan
from mixwell.plan import Plan as Plan
from mixwell.plan import SharePlan as SharePlan
from mixwell.plan import choose_per_sample as choose_per_sample
from mixwell.policies import AttentiveMix as AttentiveMix
from mixwell.policies import CoMixup as CoMixup
from mixwell.policies import CutMix as CutMix
from mixwell.policies import FMix as FMix
from mixwell.policies import GridMix as GridMix
from mixwell.policies import GridMixup as GridMixup
from mixwell.policies import GuidedMix as GuidedMix
from mixwell.policies import MaskMix as MaskMix
from mixwell.policies import MergeMix as MergeMix
from mixwell.policies import MixUp as MixUp
from mixwell.policies import PuzzleMix as PuzzleMix
from mixwell.policies import ResizeMix as ResizeMix
from mixwell.policies import SaliencyMix as SaliencyMix
from mixwell.policies import SMMix as SMMix
from mixwell.policies import SmoothMix as SmoothMix
from mixwell.policies import SnapMix as SnapMix
from mixwell.policies import Switch as Switch
from mixwell.policies import TokenMix as TokenMix
from mixwell.policies import random_mix as random_mix
from mixwell.policies import switch_mix as switch_mix
from mixwell.policies import until as until
from mixwell.policy import BatchPolicy as BatchPolicy
from mixwell.policy import NoMix as NoMix
from mixwell.policy import OneOf as OneOf
from mixwell.policy import Policy as Policy
from mixwell.policy import Sometimes as Sometimes
from mixwell.ratio import Beta as Beta
from mixwell.ratio import Constant as Constant
from mixwell.ratio import Folded as Folded
from mixwell.ratio import Ratio as Ratio
from mixwell.ratio import Uniform as Uniform
from mixwell.saliency import Activation as Activation
from mixwell.saliency import Attention as Attention
from mixwell.saliency import ClassActivation as ClassActivation
from mixwell.saliency import FineGrained as FineGrained
from mixwell.saliency import InputGradient as InputGradient
from mixwell.saliency import Saliency as Saliency
from mixwell.saliency import SpectralResidual as SpectralResidual
from mixwell.schedule import Cosine as Cosine
from mixwell.schedule import Linear as Linear
from mixwell.schedule import Schedule as Schedule
from mixwell.schedule import Step as Step
from mixwell.step_guard import StepGuard as StepGuard
from mixwell.targets import ExponentialRescale as ExponentialRescale
from mixwell.targets import PowerRescale as PowerRescale
from mixwell.targets import SoftTargets as SoftTargets
from mixwell.targets import Targets as Targets
from mixwell.targets import ThresholdTargets as ThresholdTargets
from mixwell.targets import TwoHotTargets as TwoHotTargets
from mixwell.value import Value as Value

__version__ = "0.1.0"
# Every class, function and value imported above; "import A as A" says to type checkers that a name is public.
__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name
    for name, value in globals().items()
    if name[0] != "_" and getattr(value, "__module__", "").startswith("mixwell.")
]


def __getattr__(name: str) -> NoReturn:
    """Raise with the nearest public name."""
    hint = "" if name.startswith("_") else _nearest(name, __all__)
    raise AttributeError(f"module 'mixwell' has no attribute {name!r}{hint}")
