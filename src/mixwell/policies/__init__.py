"""One file per sample policy."""

from mixwell.policies.attentivemix import AttentiveMix
from mixwell.policies.cutmix import CutMix
from mixwell.policies.fmix import FMix
from mixwell.policies.gridmix import GridMix
from mixwell.policies.gridmixup import GridMixup
from mixwell.policies.guidedmix import GuidedMix
from mixwell.policies.mixup import MixUp
from mixwell.policies.resizemix import ResizeMix
from mixwell.policies.saliencymix import SaliencyMix
from mixwell.policies.smoothmix import SmoothMix
from mixwell.policies.snapmix import SnapMix

__all__ = [
    "AttentiveMix",
    "CutMix",
    "FMix",
    "GridMix",
    "GridMixup",
    "GuidedMix",
    "MixUp",
    "ResizeMix",
    "SaliencyMix",
    "SmoothMix",
    "SnapMix",
]
