"""One file per training step."""

from mixwell.methods.adautomix import AdAutoMix as AdAutoMix
from mixwell.methods.alignmix import AlignMix as AlignMix
from mixwell.methods.augmix import AugMix as AugMix
from mixwell.methods.augmix import AugMixViews as AugMixViews
from mixwell.methods.augmix import jensen_shannon as jensen_shannon
from mixwell.methods.automix import AutoMix as AutoMix
from mixwell.methods.gridloss import GridLoss as GridLoss
from mixwell.methods.hiddenmix import HiddenMix as HiddenMix
from mixwell.methods.method import Method as Method
from mixwell.methods.mixing import Mixing as Mixing
from mixwell.methods.perturbed import PerturbedMixing as PerturbedMixing
from mixwell.methods.regionloss import RegionLoss as RegionLoss
from mixwell.methods.regmixup import RegMixup as RegMixup
from mixwell.methods.samix import SAMix as SAMix
from mixwell.methods.samix import SAMixPretrained as SAMixPretrained
from mixwell.methods.sumix import SUMix as SUMix
from mixwell.methods.sumix import UncertaintyHead as UncertaintyHead
from mixwell.methods.sumix import sumix_terms as sumix_terms
from mixwell.mixers.learnedmask import LearnedMask as LearnedMask
from mixwell.mixers.maskfile import save_mask as save_mask
