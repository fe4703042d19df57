"""The parts of ``mixwell eval --suite``, what they need, and how many forward passes they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mixwell.evaluation.corruptions import FUNCTIONS, SEVERITIES
from mixwell.evaluation.occlusion import SHARES
from mixwell.train import suite_objects as objects
from mixwell.train import suite_predictions as predictions
from mixwell.train import suite_robustness as robustness
from mixwell.train.suite import Figure, Subject
from mixwell.train.suite_transfer import transfer


class Part(NamedTuple):
    """A part of the suite.

    Attributes:
        measure: Yields figures by name.
        cost: Work in forward passes per image, which tells the time left.
        check: Raises ``UnavailableError`` before any part is measured if something is missing.
    """

    measure: Callable[[Subject], Iterable[tuple[str, Figure]]]
    cost: float
    check: Callable[[Subject], object] = Subject.one_label


PARTS = {
    "accuracy": Part(predictions.accuracy, 1, lambda subject: None),
    "calibration": Part(predictions.calibration, 1),
    "selective": Part(predictions.selective, 0),
    "ood": Part(predictions.ood, 1, lambda subject: subject.given("ood")),
    "adversarial": Part(robustness.adversarial, 40),
    "autoattack": Part(robustness.autoattack, 5000, robustness.needs_autoattack),
    "occlusion": Part(robustness.occlusion, 2 * len(SHARES)),
    "corruptions": Part(robustness.corruptions, 3 * len(FUNCTIONS) * len(SEVERITIES), robustness.needs_baseline),
    "corrupted": Part(robustness.corrupted, len(FUNCTIONS) * len(SEVERITIES), robustness.needs_corrupted),
    "transfer": Part(transfer, 2),
    "localization": Part(objects.localization, 5, objects.needs_boxes),
    "label_error": Part(objects.label_error, 5, objects.needs_boxes),
}
FULL = [name for name in PARTS if name != "autoattack"]  # minutes per batch, and an extra package
