"""One file per training step."""

from mixwell.methods.method import Method
from mixwell.methods.mixing import Mixing
from mixwell.methods.sumix import SUMix, SUMixTerms, UncertaintyHead, normalised_uncertainty, sumix_terms

__all__ = ["Method", "Mixing", "SUMix", "SUMixTerms", "UncertaintyHead", "normalised_uncertainty", "sumix_terms"]
