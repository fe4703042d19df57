"""One file per training step."""

from mixwell.methods.adautomix import AdAutoMix
from mixwell.methods.alignmix import AlignMix
from mixwell.methods.augmix import AugMix, AugMixViews, jensen_shannon
from mixwell.methods.automix import AutoMix
from mixwell.methods.gridloss import GridLoss
from mixwell.methods.hiddenmix import HiddenMix
from mixwell.methods.method import Method
from mixwell.methods.mixing import Mixing
from mixwell.methods.perturbed import PerturbedMixing
from mixwell.methods.regionloss import RegionLoss
from mixwell.methods.regmixup import RegMixup
from mixwell.methods.samix import SAMix, SAMixPretrained
from mixwell.methods.sumix import SUMix, SUMixTerms, UncertaintyHead, normalised_uncertainty, sumix_terms
from mixwell.mixers.learnedmask import LearnedMask
from mixwell.mixers.maskfile import save_mask

__all__ = [
    "AdAutoMix",
    "AlignMix",
    "AugMix",
    "AugMixViews",
    "AutoMix",
    "GridLoss",
    "HiddenMix",
    "LearnedMask",
    "Method",
    "Mixing",
    "PerturbedMixing",
    "RegMixup",
    "RegionLoss",
    "SAMix",
    "SAMixPretrained",
    "SUMix",
    "SUMixTerms",
    "UncertaintyHead",
    "jensen_shannon",
    "normalised_uncertainty",
    "save_mask",
    "sumix_terms",
]
