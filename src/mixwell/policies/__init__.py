"""One file per sample policy."""

from mixwell.policies.attentivemix import AttentiveMix
from mixwell.policies.cutmix import CutMix
from mixwell.policies.fmix import FMix
from mixwell.policies.gridmix import GridMix
from mixwell.policies.gridmixup import GridMixup
from mixwell.policies.guidedmix import GuidedMix
from mixwell.policies.mixup import MixUp
from mixwell.policies.presets import random_mix, switch_mix
from mixwell.policies.puzzlemix import PuzzleMix
from mixwell.policies.resizemix import ResizeMix
from mixwell.policies.saliencymix import SaliencyMix
from mixwell.policies.smoothmix import SmoothMix
from mixwell.policies.snapmix import SnapMix
from mixwell.policies.switch import Switch, until

__all__ = [
    "AttentiveMix",
    "CutMix",
    "FMix",
    "GridMix",
    "GridMixup",
    "GuidedMix",
    "MixUp",
    "PuzzleMix",
    "ResizeMix",
    "SaliencyMix",
    "SmoothMix",
    "SnapMix",
    "Switch",
    "random_mix",
    "switch_mix",
    "until",
]
