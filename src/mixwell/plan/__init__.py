"""Plans: everything drawn for one batch. The only code that reads or writes pixels."""

from mixwell.plan.base import Plan as Plan
from mixwell.plan.box import BoxPlan as BoxPlan
from mixwell.plan.choice import ChoicePlan as ChoicePlan
from mixwell.plan.choice import choose_per_sample as choose_per_sample
from mixwell.plan.detection import MixedBoxes as MixedBoxes
from mixwell.plan.detection import mix_boxes as mix_boxes
from mixwell.plan.shares import BlendPlan as BlendPlan
from mixwell.plan.shares import MaskPlan as MaskPlan
from mixwell.plan.shares import MosaicPlan as MosaicPlan
from mixwell.plan.shares import PatchPlan as PatchPlan
from mixwell.plan.shares import SharePlan as SharePlan
