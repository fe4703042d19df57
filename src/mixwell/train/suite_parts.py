"""The parts of ``mixwell eval --suite``, and how many forward passes each needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mixwell.evaluation.corruptions import FUNCTIONS, SEVERITIES
from mixwell.evaluation.occlusion import SHARES
from mixwell.train.suite import Figure, Subject
from mixwell.train.suite_predictions import accuracy, calibration, ood, selective
from mixwell.train.suite_robustness import EPSILONS, adversarial, autoattack, corrupted, corruptions, occlusion


class Part(NamedTuple):
    """What measures, and how many forward passes per image it needs, to tell the time left."""

    measure: Callable[[Subject], Iterable[tuple[str, Figure]]]
    cost: float

    def passes(self, subject: Subject) -> int:
        """Return the forward passes of single images."""
        return round(self.cost * len(subject.split))


PARTS = {
    "accuracy": Part(accuracy, 1),
    "calibration": Part(calibration, 1),
    "selective": Part(selective, 0),
    "ood": Part(ood, 1),
    "adversarial": Part(adversarial, len(EPSILONS) + 1),
    "autoattack": Part(autoattack, 1),
    "occlusion": Part(occlusion, 2 * len(SHARES)),
    "corruptions": Part(corruptions, len(FUNCTIONS) * len(SEVERITIES)),
    "corrupted": Part(corrupted, 1),
}
FULL = [name for name in PARTS if name != "autoattack"]  # minutes per batch, and an extra package
