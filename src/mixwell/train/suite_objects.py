"""Parts of the suite that need the boxes of objects: localization by class activation maps, and label errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mixwell.evaluation.localization import IOUS, THRESHOLDS, box_accuracy, centre_overlaps, normalized_maps, overlaps
from mixwell.metrics import top_k_hits
from mixwell.saliency import ClassActivation
from mixwell.train import label_errors
from mixwell.train.box_table import Entry, Objects, read_images, read_table, shuffled
from mixwell.train.suite import Figure, Subject, UnavailableError, grey
from mixwell.train.suite_predictions import Named

MEASURED, HELD, MIXED = 50_000, 1000, 384  # images to measure, to choose the threshold on, and to mix


def needs_boxes(subject: Subject) -> None:
    """Raise an error before the measurement if there is no table of boxes, or it cannot be read."""
    _rows(subject)


def _rows(subject: Subject) -> tuple[list[Entry], list[Entry], str]:
    """Return the images to measure, others to choose a threshold on, and where the latter come from."""
    entries = read_table(subject.given("boxes"))
    measured = [entry for entry in entries if entry.split == "test"] or entries
    for split in ("val", "train"):
        held = [entry for entry in entries if entry.split == split]
        if held and len(measured) < len(entries):
            return shuffled(measured), shuffled(held), f"{min(len(held), HELD)} {split} images"
    return shuffled(measured), [], ""


def _objects(subject: Subject, entries: list[Entry], count: int) -> Objects:
    """Read images and boxes, with the class indices, channels and device of the model."""
    table, config = subject.given("boxes"), subject.config
    root = table.parent if (table.parent / entries[0].file).is_file() else Path(config.data)
    found = read_images(root, entries, table, config.evaluation_size, count)
    known = {name: index for index, name in enumerate(subject.data.classes)}
    pairs: list[tuple[str, int]] = list(zip(found.names, found.labels.tolist(), strict=True))
    labels = [known.get(Path(name).parent.name, own) for name, own in pairs]
    strange = next((name for name in found.names if Path(name).parent.name not in known), None)
    if strange is not None and not entries[0].class_index:
        raise UnavailableError(
            f"{table}: the folder of {strange} is not a class of the model: add the column class_index"
        )
    if max(labels) >= len(known):
        raise UnavailableError(f"{table} has the class {max(labels)}, and the model has {len(known)} classes")
    images = found.images
    if subject.data.channels == 1:
        images = grey(images.float()).round().byte()
    return replace(found, images=images.to(subject.device), labels=torch.tensor(labels, device=subject.device))


class Overlaps(NamedTuple):
    """Intersection over union at each threshold, shapes ``(B, thresholds)``, and which images are classified right.

    Attributes:
        largest: Of the largest part of the class activation map.
        best: Of the best part.
        centre: Of a box in the centre, by its size.
        hits: Shape ``(B,)``.
    """

    largest: Tensor
    best: Tensor
    centre: Tensor
    hits: Tensor


def measure(subject: Subject, objects: Objects) -> Overlaps:
    """Compare the boxes of class activation maps with the true boxes.

    Raises:
        UnavailableError: The model has no feature map that its last layer can be applied to.
    """
    found, size = [], (objects.images.shape[2], objects.images.shape[3])
    for rows in torch.arange(len(objects.images)).split(subject.config.batch_size):
        images = subject.normalization.normalize(objects.images[rows].float() / 255)
        labels, boxes = objects.labels[rows], objects.boxes[rows]
        with torch.no_grad():
            logits = subject.logits_of(images)
            try:
                maps = ClassActivation()(subject.model, images, labels)
            except ValueError as error:
                raise UnavailableError(f"no class activation map: {error}") from None
        hits = top_k_hits(logits, labels).cpu()
        found.append((*overlaps(normalized_maps(maps.cpu(), size), boxes), centre_overlaps(boxes, size), hits))
        subject.step(2 * len(rows))
    return Overlaps(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def localization(subject: Subject) -> Named:
    """Yield how well boxes around class activation maps agree with the boxes of the objects."""
    rows, held, source = _rows(subject)
    found = measure(subject, _objects(subject, rows, MEASURED))
    if held:
        other = measure(subject, _objects(subject, held, HELD))
        pairs = [(found, other)]
    else:
        order = torch.randperm(len(found.hits), generator=torch.Generator().manual_seed(0))
        halves = [Overlaps(*(part[half] for part in found)) for half in order.tensor_split(2)]
        pairs, source = [(halves[0], halves[1]), (halves[1], halves[0])], "the other half of the images"
    yield from _figures(found, pairs, source)


def _figures(found: Overlaps, pairs: Sequence[tuple[Overlaps, Overlaps]], source: str) -> Named:
    text = (
        f"Share of {len(found.hits)} images, resized to a square, with IoU >= 0.5 of the true box and the box of the "
        "largest part of the CAM of the true class"
    )
    chosen = f", threshold chosen on {source}"
    yield "box_accuracy", Figure(_held_out(pairs, "largest"), f"{text}{chosen}.", "%")
    how = f"{text} that are also classified right{chosen}."
    yield "top1_localization", Figure(_held_out(pairs, "largest", right=True), how, "%")
    parts = f"Share of {len(found.hits)} images with IoU >= 0.3, 0.5 and 0.7 of the true box and any part of the CAM"
    v2 = f"Mean of three: {parts[0].lower()}{parts[1:]}"
    value = sum(_held_out(pairs, "best", iou) for iou in IOUS) / len(IOUS)
    yield "box_accuracy_v2", Figure(value, f"{v2}{chosen}.", "%")
    how = f"MaxBoxAcc: {text}, threshold chosen on the same images."
    yield "max_box_acc", Figure(box_accuracy(found.largest).max().item(), how, "%")
    value = sum(box_accuracy(found.best, iou).max().item() for iou in IOUS) / len(IOUS)
    yield "max_box_acc_v2", Figure(value, f"MaxBoxAccV2: {v2}, thresholds chosen on the same images.", "%")
    how = "Share of images with IoU >= 0.5 of the true box and a box in the centre, with the proportions of the image"
    yield "centre_box", Figure(_held_out(pairs, "centre"), f"{how}; its size is chosen on {source}.", "%")
    curve = {f"iou{100 * iou:.0f}": box_accuracy(found.best, iou).tolist() for iou in IOUS}
    yield "box_curve", Figure({"threshold": list(THRESHOLDS), **curve}, f"{parts}, by threshold.", "%")


def _held_out(pairs: Sequence[tuple[Overlaps, Overlaps]], kind: str, iou: float = 0.5, right: bool = False) -> float:
    """Return the accuracy at the threshold that is the best one on other images."""
    total = 0.0
    for measured, other in pairs:
        place = int(box_accuracy(getattr(other, kind), iou).argmax())
        good = (getattr(measured, kind)[:, place] >= iou) & (measured.hits | (not right))
        total += good.double().sum().item()
    return 100 * total / sum(len(measured.hits) for measured, _ in pairs)


def label_error(subject: Subject) -> Named:
    """Yield how far label weights of mixed images are from what is visible, for every possible label policy."""
    objects = _objects(subject, _rows(subject)[0], MIXED)
    objects = replace(objects, boxes=objects.boxes.to(subject.device))
    labels, policies = label_errors.parsed_labels(), label_errors.parsed_policies()
    for name in label_errors.refused(subject.model, objects, labels, subject.normalization):
        del labels[name]
    records = label_errors.measure(subject.model, objects, policies, labels, subject.normalization)
    how = (
        "Mean |weight of the anchor's label - its share of the visible fractions of both objects|, over "
        f"{len(policies)} sample policies and {len(objects.images)} images with boxes."
    )
    for name in labels:
        errors = [record["fraction_error"] for record in records if record["label"] == name]
        yield name, Figure(sum(errors) / len(errors), how)
