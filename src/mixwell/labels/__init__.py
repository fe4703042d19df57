"""Label policies: how the weights of a mixed image's labels are computed."""

from mixwell.labels.activation import ActivationShare as ActivationShare
from mixwell.labels.activation import SaliencyShare as SaliencyShare
from mixwell.labels.alignment import TokenLabelAlignment as TokenLabelAlignment
from mixwell.labels.attention import AttentionShare as AttentionShare
from mixwell.labels.attention import ProgressiveAttentionShare as ProgressiveAttentionShare
from mixwell.labels.base import Boxes as Boxes
from mixwell.labels.base import LabelPolicy as LabelPolicy
from mixwell.labels.base import PixelShare as PixelShare
from mixwell.labels.base import RatioShare as RatioShare
from mixwell.labels.base import View as View
from mixwell.labels.lumix import LUMixShare as LUMixShare
from mixwell.labels.objects import ObjectShare as ObjectShare
from mixwell.labels.semantic import Agreement as Agreement
from mixwell.labels.semantic import Distance as Distance
from mixwell.labels.semantic import Released as Released
from mixwell.labels.semantic import SemanticShare as SemanticShare
from mixwell.labels.semantic import Similarity as Similarity
