"""Boxes of score maps against a flood fill and the published program; boxes in the centre; real birds."""

from __future__ import annotations

import csv
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

pytest.importorskip("scipy")
from mixwell.evaluation.localization import (
    IOUS,
    THRESHOLDS,
    box_accuracy,
    box_iou,
    centre_overlaps,
    normalized_maps,
    overlaps,
)


def flood(above: list[list[bool]]) -> list[list[tuple[int, int]]]:
    """Return the connected parts of a mask, found pixel by pixel."""
    left = {(y, x) for y, row in enumerate(above) for x, on in enumerate(row) if on}
    parts = []
    while left:
        part, front = [], [left.pop()]
        while front:
            y, x = front.pop()
            part.append((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            front += around
        parts.append(part)
    return parts


def iou(part: list[tuple[int, int]], box: list[float]) -> float:
    top, bottom = min(y for y, _ in part), max(y for y, _ in part) + 1
    left, right = min(x for _, x in part), max(x for _, x in part) + 1
    wide = max(min(right, box[2]) - max(left, box[0]), 0)
    high = max(min(bottom, box[3]) - max(top, box[1]), 0)
    shared = wide * high
    return shared / ((right - left) * (bottom - top) + (box[2] - box[0]) * (box[3] - box[1]) - shared)


def maps_and_boxes(count: int, size: tuple[int, int], cells: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(5)
    maps = normalized_maps(torch.rand(count, cells, cells), size)
    corners = torch.rand(count, 2, 2).sort(1).values * torch.tensor([size[1], size[0]])
    return maps, corners.flatten(1)


@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_overlaps_equal_a_flood_fill(size: tuple[int, int]) -> None:
    """The largest and the best part at every threshold; images need not be square; of equal parts either may count."""
    maps, boxes = maps_and_boxes(4, size, 5)
    maps[0] = (maps[0] > 0.5).float()  # many ties
    largest, best = overlaps(maps, boxes)
    for row, box in enumerate(boxes.tolist()):
        for column, threshold in enumerate(THRESHOLDS):
            parts = flood((maps[row] > threshold).tolist())
            shares = [iou(part, box) for part in parts]
            most = max((len(part) for part in parts), default=0)
            allowed = [share for part, share in zip(parts, shares, strict=True) if len(part) == most] or [0.0]
            assert best[row, column].item() == pytest.approx(max(shares, default=0.0), abs=1e-6)
            assert any(largest[row, column].item() == pytest.approx(share, abs=1e-6) for share in allowed)


def test_overlaps_agree_with_opencv() -> None:
    """The published program draws contours with OpenCV on maps of 8 bits, and takes the contour of largest area."""
    cv2 = pytest.importorskip("cv2")
    maps, boxes = maps_and_boxes(6, (40, 40), 6)
    maps = (maps * 255).round() / 255
    largest, best = overlaps(maps, boxes)
    compared = same = 0
    for row, box in enumerate(boxes):
        grey = (maps[row] * 255).round().byte().numpy()
        for column in range(0, 100, 7):
            mask = cv2.threshold(grey, int(THRESHOLDS[column] * 255), 255, cv2.THRESH_BINARY)[1]
            contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
            sides = [cv2.boundingRect(contour) for contour in contours]
            found = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in sides], dtype=torch.float64)
            shares = box_iou(found, box.double())
            area = int(np.argmax([cv2.contourArea(contour) for contour in contours]))
            assert best[row, column].item() >= shares.max().item() - 1e-6  # a part inside a hole is one more here
            same += abs(largest[row, column].item() - shares[area].item()) < 1e-6
            compared += 1
    assert same / compared > 0.9  # the area of a contour counts holes, and half of the pixels of its line


def test_accuracies_by_hand() -> None:
    overlap = torch.tensor([[0.5, 0.29], [0.7, 0.3], [0.1, 0.0]])
    assert box_accuracy(overlap).tolist() == pytest.approx([200 / 3, 0])
    assert box_accuracy(overlap, 0.3).tolist() == pytest.approx([200 / 3, 100 / 3])


def test_iou_equals_torchvision() -> None:
    ops = pytest.importorskip("torchvision.ops")
    corners = torch.rand(30, 2, 2, dtype=torch.float64).sort(1).values.flatten(1)
    torch.testing.assert_close(box_iou(corners[:, None], corners), ops.box_iou(corners, corners), rtol=0, atol=1e-9)
    empty = torch.tensor([1.0, 1.0, 1.0, 1.0])
    assert box_iou(empty, empty).item() == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_maps_without_information_have_no_box(bad: float) -> None:
    maps = torch.stack([torch.ones(3, 3), torch.full((3, 3), bad), torch.eye(3)])
    maps[1, 0] = 0.0
    found = normalized_maps(maps, (6, 9))
    assert found[0].eq(0).all() and found[1].eq(0).all() and found[2].max() == 1 and found.shape == (3, 6, 9)
    largest, best = overlaps(found, torch.tensor([[0.0, 0.0, 9.0, 6.0]]).expand(3, 4))
    assert largest[:2].eq(0).all() and best[:2].eq(0).all() and best[2].max() > 0.9


def test_centre_boxes() -> None:
    """Each has the proportions of the image, and the share of the sides that its threshold leaves."""
    found = centre_overlaps(torch.tensor([[0.0, 0.0, 20.0, 10.0], [5.0, 2.5, 15.0, 7.5]]), (10, 20))
    assert found[0].tolist() == pytest.approx([(1 - t) ** 2 for t in THRESHOLDS])
    assert found[1, 50].item() == pytest.approx(1) and found[1].argmax() == 50


class Bright(nn.Module):
    """A classifier whose class activation map is the brightness of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.AvgPool2d(2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 3, bias=False)
        self.fc.weight.data = torch.eye(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(self.stage(images)).flatten(1))


def objects(folder: Path, count: int, splits: tuple[str, ...]) -> Path:
    """Write images with one rectangle in the colour of its class, and the table of their boxes."""
    generator = np.random.default_rng(1)
    with (folder / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "split", "class_index", "xmin", "ymin", "xmax", "ymax"])
        for index in range(count):
            left, top = (2 * int(n) for n in generator.integers(0, 8, 2))
            pixels = np.zeros((32, 64, 3), np.uint8)
            pixels[top : top + 12, 2 * left : 2 * left + 32, index % 3] = 255
            Image.fromarray(pixels).save(folder / f"{index}.png")
            box = (2 * left, top, 2 * left + 32, top + 12)
            writer.writerow([f"{index}.png", splits[index % len(splits)], index % 3, *box])
    return folder / "boxes.csv"


@pytest.mark.parametrize("splits", [("test", "train"), ("",)])
def test_maps_of_the_object_find_its_box(tmp_path: Path, splits: tuple[str, ...]) -> None:
    """A perfect map has a perfect box, with and without other images to choose the threshold on."""
    pytest.importorskip("accelerate")
    from mixwell.normalization import Normalization
    from mixwell.train import suite_objects
    from mixwell.train.config import Config
    from mixwell.train.dataset import DataSet, Split
    from mixwell.train.suite import Others, Subject, UnavailableError

    empty = Split([], torch.zeros(0, dtype=torch.long))
    data = DataSet(empty, empty, empty, ["red", "green", "blue"], 3, Normalization())
    config = Config(dataset="folder", data=str(tmp_path), image_size=32, batch_size=5)
    others = Others(boxes=objects(tmp_path, 24, splits))
    subject = Subject(Bright().eval(), empty, None, config, data, torch.device("cpu"), nullcontext, others)
    figures = dict(suite_objects.localization(subject))
    for name in ("box_accuracy", "top1_localization", "box_accuracy_v2", "max_box_acc", "max_box_acc_v2"):
        assert figures[name].value == 100
    assert figures["centre_box"].value < 80
    assert "12 train images" in figures["box_accuracy"].how or splits == ("",)
    assert max(figures["box_curve"].value["iou70"]) == 100
    subject.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(UnavailableError, match=r"no class activation map: .* shows no map"):
        dict(suite_objects.localization(subject))
    data.classes.pop()
    with pytest.raises(UnavailableError, match="has the class 2, and the model has 2 classes"):
        dict(suite_objects.localization(subject))


@pytest.mark.slow
def test_birds(shared: Path, tmp_path: Path) -> None:
    """On 1,389 birds a box in the centre has about 60 % MaxBoxAcc; maps of 5 x 5 cells are not better."""
    import csv
    import tarfile

    benchmark = pytest.importorskip("localization")
    archive, weights = shared / "data" / "cub50.tar.gz", shared / "data" / "models" / "cub50_lite0.safetensors"
    if not archive.is_file() or not weights.is_file():
        pytest.skip(f"no {archive} or {weights}")
    pytest.importorskip("timm")
    from mixwell.train import box_table, suite_objects

    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    subject = benchmark.birds(tmp_path / "cub50", weights)
    with (tmp_path / "cub50" / "cub50.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    places = [[float(row[f"bbox_{side}"]) for side in "xywh"] for row in rows]
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in places])
    boxes /= torch.tensor([[int(row["width"]), int(row["height"])] * 2 for row in rows])
    centre = box_accuracy(centre_overlaps(boxes, (1, 1))).max().item()
    assert len(rows) == 1389 and 55 < centre < 65
    entries = [e for e in box_table.read_table(tmp_path / "cub50" / "cub50.csv") if e.split == "test"]
    found = suite_objects.measure(subject, suite_objects._objects(subject, box_table.shuffled(entries), 128))
    assert 35 < box_accuracy(found.largest).max() < 75
    assert found.hits.double().mean() > 0.5
    assert all(box_accuracy(found.best, at).max() >= box_accuracy(found.largest, at).max() for at in IOUS)
