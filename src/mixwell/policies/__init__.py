"""One file per sample policy."""

from mixwell.policies.cutmix import CutMix
from mixwell.policies.fmix import FMix
from mixwell.policies.mixup import MixUp
from mixwell.policies.resizemix import ResizeMix
from mixwell.policies.saliencymix import SaliencyMix

__all__ = ["CutMix", "FMix", "MixUp", "ResizeMix", "SaliencyMix"]
