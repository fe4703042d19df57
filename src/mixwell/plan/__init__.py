"""Plans: everything drawn for one batch. The only code that reads or writes pixels."""

from mixwell.plan.base import Plan
from mixwell.plan.box import BoxPlan
from mixwell.plan.choice import ChoicePlan, choose_per_sample
from mixwell.plan.detection import MixedBoxes, mix_boxes
from mixwell.plan.shares import BlendPlan, MaskPlan, PatchPlan, SharePlan

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
