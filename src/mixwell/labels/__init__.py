"""Label policies: how the weights of a mixed image's labels are computed."""

from mixwell.labels.activation import ActivationShare, SaliencyShare
from mixwell.labels.alignment import TokenLabelAlignment
from mixwell.labels.attention import AttentionShare, ProgressiveAttentionShare
from mixwell.labels.base import Boxes, LabelPolicy, PixelShare, RatioShare, View
from mixwell.labels.lumix import LUMixShare
from mixwell.labels.objects import ObjectShare
from mixwell.labels.semantic import Agreement, Distance, Released, SemanticShare, Similarity

__all__ = [
    "ActivationShare",
    "Agreement",
    "AttentionShare",
    "Boxes",
    "Distance",
    "LUMixShare",
    "LabelPolicy",
    "ObjectShare",
    "PixelShare",
    "ProgressiveAttentionShare",
    "RatioShare",
    "Released",
    "SaliencyShare",
    "SemanticShare",
    "Similarity",
    "TokenLabelAlignment",
    "View",
]
