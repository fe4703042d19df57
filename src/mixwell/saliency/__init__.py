"""Saliency sources: maps of how important every pixel is."""

from mixwell.saliency.activation import Activation as Activation
from mixwell.saliency.activation import ClassActivation as ClassActivation
from mixwell.saliency.attention import Attention as Attention
from mixwell.saliency.base import Saliency as Saliency
from mixwell.saliency.contrast import FineGrained as FineGrained
from mixwell.saliency.contrast import SpectralResidual as SpectralResidual
from mixwell.saliency.gradient import InputGradient as InputGradient
