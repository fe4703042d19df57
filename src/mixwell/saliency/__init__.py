"""Saliency sources: maps of how important every pixel is."""

from mixwell.saliency.activation import Activation, ClassActivation
from mixwell.saliency.base import Saliency
from mixwell.saliency.contrast import FineGrained, SpectralResidual
from mixwell.saliency.gradient import InputGradient

__all__ = ["Activation", "ClassActivation", "FineGrained", "InputGradient", "Saliency", "SpectralResidual"]
