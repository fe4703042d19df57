"""The parts of ``mixwell eval --suite``, what they need, and how many forward passes they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mixwell.evaluation.corruptions import FUNCTIONS, SEVERITIES
from mixwell.evaluation.occlusion import SHARES
from mixwell.train.suite import Figure, Subject
from mixwell.train.suite_objects import label_error, localization, needs_boxes
from mixwell.train.suite_predictions import accuracy, calibration, ood, selective
from mixwell.train.suite_robustness import (
    adversarial,
    autoattack,
    corrupted,
    corruptions,
    needs_autoattack,
    needs_baseline,
    needs_corrupted,
    occlusion,
)
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
    "accuracy": Part(accuracy, 1, lambda subject: None),
    "calibration": Part(calibration, 1),
    "selective": Part(selective, 0),
    "ood": Part(ood, 1, lambda subject: subject.given("ood")),
    "adversarial": Part(adversarial, 40),
    "autoattack": Part(autoattack, 5000, needs_autoattack),
    "occlusion": Part(occlusion, 2 * len(SHARES)),
    "corruptions": Part(corruptions, 3 * len(FUNCTIONS) * len(SEVERITIES), needs_baseline),
    "corrupted": Part(corrupted, len(FUNCTIONS) * len(SEVERITIES), needs_corrupted),
    "transfer": Part(transfer, 2),
    "localization": Part(localization, 5, needs_boxes),
    "label_error": Part(label_error, 5, needs_boxes),
}
FULL = [name for name in PARTS if name != "autoattack"]  # minutes per batch, and an extra package
