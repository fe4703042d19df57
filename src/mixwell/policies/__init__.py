"""One file per sample policy."""

from mixwell.policies.attentivemix import AttentiveMix as AttentiveMix
from mixwell.policies.comixup import CoMixup as CoMixup
from mixwell.policies.cutmix import CutMix as CutMix
from mixwell.policies.fmix import FMix as FMix
from mixwell.policies.gridmix import GridMix as GridMix
from mixwell.policies.gridmixup import GridMixup as GridMixup
from mixwell.policies.guidedmix import GuidedMix as GuidedMix
from mixwell.policies.maskmix import MaskMix as MaskMix
from mixwell.policies.mergemix import MergeMix as MergeMix
from mixwell.policies.mixup import MixUp as MixUp
from mixwell.policies.presets import random_mix as random_mix
from mixwell.policies.presets import switch_mix as switch_mix
from mixwell.policies.puzzlemix import PuzzleMix as PuzzleMix
from mixwell.policies.resizemix import ResizeMix as ResizeMix
from mixwell.policies.saliencymix import SaliencyMix as SaliencyMix
from mixwell.policies.smmix import SMMix as SMMix
from mixwell.policies.smoothmix import SmoothMix as SmoothMix
from mixwell.policies.snapmix import SnapMix as SnapMix
from mixwell.policies.switch import Switch as Switch
from mixwell.policies.switch import until as until
from mixwell.policies.tokenmix import TokenMix as TokenMix
