"""Plans: everything drawn for one batch. The only code that reads or writes pixels."""

from mixwell.plan.base import Plan
from mixwell.plan.blend import BlendPlan
from mixwell.plan.box import BoxPlan
from mixwell.plan.choice import ChoicePlan, choose_per_sample
from mixwell.plan.detection import MixedBoxes, mix_boxes
from mixwell.plan.mask import MaskPlan, PatchPlan
from mixwell.plan.shares import SharePlan

__all__ = [
    "BlendPlan",
    "BoxPlan",
    "ChoicePlan",
    "MaskPlan",
    "MixedBoxes",
    "PatchPlan",
    "Plan",
    "SharePlan",
    "choose_per_sample",
    "mix_boxes",
]
