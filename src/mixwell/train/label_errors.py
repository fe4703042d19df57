"""``mixwell labels``: how far label weights are from what is visible, on images with bounding boxes."""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import mixwell as mw
from mixwell import models
from mixwell.features.isolation import undisturbed
from mixwell.features.observer import Observer
from mixwell.features.passes import logits_of
from mixwell.labels.objects import object_masks
from mixwell.report.label_errors import worst_cases
from mixwell.train import images as files
from mixwell.train.build import without_prefix
from mixwell.train.checkpoint import load_weights, read_weights
from mixwell.train.errors import Parser, RunError
from mixwell.train.files import write
from mixwell.train.paths import expand
from mixwell.train.runs import read_config

ABOUT = """\
Measure how far label weights of mixed images are from the visible share of each object, on images whose objects have
bounding boxes. Two references are printed: the anchor's share of the visible object pixels ("area"), and the same with
the pixels of each object divided by its size ("fraction").

  mixwell labels runs/a --data DIR --boxes DIR/boxes.csv
  mixwell labels weights.safetensors --model timm/tf_efficientnet_lite0 --mean 0.5 --std 0.5 \\
      --image_size 144 --data cub50 --boxes cub50/cub50.csv

The CSV has a column file (path below DIR) and the box in pixels as bbox_x, bbox_y, bbox_w, bbox_h, or x, y, w, h, or
xmin, ymin, xmax, ymax; optionally split (only "test" rows are used, where there are any) and class_index."""
POLICIES = (
    "CutMix()",
    "FMix()",
    "ResizeMix()",
    "GridMix()",
    "SaliencyMix()",
    "SmoothMix()",
    "MixUp()",
    "GridMixup()",
)
LABELS = (
    "PixelShare()",
    "RatioShare()",
    "SemanticShare(kappa=0.5)",
    "SemanticShare(kappa=1.0)",
    "SemanticShare(similarity='agreement', kappa=0.5)",
    "SemanticShare(similarity='released', kappa=0.5)",
    "ActivationShare()",
    "ActivationShare(power=1.0)",
    "SaliencyShare(SpectralResidual())",
    "AttentionShare()",
    "ProgressiveAttentionShare()",
    "TokenLabelAlignment()",
    "ObjectShare()",
)
CORNERS = (("bbox_x", "bbox_y", "bbox_w", "bbox_h"), ("x", "y", "w", "h"), ("xmin", "ymin", "xmax", "ymax"))
BATCH = 64


@dataclass
class Objects:
    """Images with one object each.

    Attributes:
        images: uint8, shape ``(N, 3, S, S)``; the whole image, resized to a square.
        boxes: ``(x1, y1, x2, y2)`` in pixels of these, shape ``(N, 4)``.
        labels: Class indices, shape ``(N,)``.
        names: File names.
    """

    images: Tensor
    boxes: Tensor
    labels: Tensor
    names: list[str]


def read_rows(table: Path) -> list[dict[str, str]]:
    """Read a CSV of boxes.

    Raises:
        RunError: It cannot be read, or a column is missing.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"cannot read the boxes in {table}: {error}") from None
    if not rows or "file" not in rows[0] or not any(set(columns) <= rows[0].keys() for columns in CORNERS):
        raise RunError(f"{table} must have a column file and {', or '.join(', '.join(c) for c in CORNERS)}")
    return rows


def read_objects(root: Path, table: Path, size: int, count: int, seed: int = 0) -> Objects:
    """Read ``count`` random images of a CSV of boxes; errors as in :func:`read_rows` and :func:`read_images`."""
    rows = read_rows(table)
    rows = [row for row in rows if row.get("split") == "test"] or rows
    return read_images(root, table, chosen_rows(rows, count, seed), size)


def chosen_rows(rows: Sequence[Mapping[str, str]], count: int, seed: int = 0) -> list[Mapping[str, str]]:
    """Return ``count`` rows at random."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]
    return [rows[index] for index in order.tolist()]


def read_images(root: Path, table: Path, rows: Sequence[Mapping[str, str]], size: int) -> Objects:
    """Read the images that rows of a table name, and resize them to a square.

    Raises:
        RunError: An image cannot be read, or a box is not four numbers.
    """
    columns = next(columns for columns in CORNERS if set(columns) <= rows[0].keys())
    pixels, boxes, folders = [], [], []
    for row in rows:
        image = files.read(root / row["file"])
        pixels.append(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)))
        boxes.append(_box(row, columns, image.size, size, table))
        folders.append(row.get("class_index") or Path(row["file"]).parent.name)
    classes = sorted(set(folders), key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    labels = [int(name) if name.isdecimal() else classes.index(name) for name in folders]
    stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    return Objects(stacked, torch.tensor(boxes), torch.tensor(labels), [row["file"] for row in rows])


def _box(
    row: Mapping[str, str], columns: tuple[str, ...], image: tuple[int, int], size: int, table: Path
) -> list[float]:
    try:
        left, top, right, bottom = (float(row[name]) for name in columns)
    except (TypeError, ValueError):
        raise RunError(f"{table}: the box of {row['file']} must be four numbers") from None
    if columns[2] != "xmax":
        right, bottom = left + right, top + bottom
    scale = size / image[0], size / image[1]
    return [left * scale[0], top * scale[1], right * scale[0], bottom * scale[1]]


@torch.no_grad()
def measure(
    model: nn.Module,
    objects: Objects,
    policies: Mapping[str, mw.BatchPolicy],
    labels: Mapping[str, mw.LabelPolicy],
    normalization: mw.Normalization | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compute the label weights of mixed images and compare them with what is visible.

    Args:
        model: The classifier.
        objects: Images with boxes.
        policies: Sample policies by name.
        labels: Label policies by name.
        normalization: Of the model's images.
        seed: Seed of the mixing.

    Returns:
        One record per pair of policies: ``policy``, ``label``, ``error``, ``correlation`` and ``large`` for the area
        and, with ``fraction_`` before the name, for the fraction. Also ``weights``, ``area`` and ``fraction`` of every
        image, ``sources``, the rows of its two images, and ``mixed``, its pixels (uint8).
    """
    needs = frozenset().union(*(label.needs for label in labels.values()))
    # Two observers: attention that has been read from all blocks cannot be read again from the last one.
    observers, records = [Observer(model, part) for part in (needs - {"attentions"}, needs & {"attentions"})], []
    height, width = objects.images.shape[2:]
    masks = object_masks(objects.boxes, len(objects.images), (height, width))
    with undisturbed(model):
        for policy_name, policy in policies.items():
            found: dict[str, list[Tensor]] = {name: [] for name in labels}
            area, fraction, sources, pictures = [], [], [], []
            for start in range(0, len(masks) - 1, BATCH):
                rows = slice(start, start + BATCH)
                pixels = objects.images[rows].float() / 255
                images = pixels if normalization is None else normalization.normalize(pixels)
                given = {"model": model, "normalization": normalization}
                generator = torch.Generator().manual_seed(seed + start)
                mixed = policy(images, objects.labels[rows], **given, generator=generator)
                view = _view(model, observers, images, mixed, objects.labels[rows], objects.boxes[rows])
                for name, label in labels.items():
                    found[name].append(label(mixed, view)[:, 0])
                for part, visible in zip((area, fraction), mw.visible_objects(mixed.plan, masks[rows]), strict=True):
                    part.append(visible)
                sources.append(mixed.plan.sources + start)
                pictures.append(mixed.plan.apply(objects.images[rows]))
            visible = {"area": torch.cat(area), "fraction": torch.cat(fraction)}
            shown = {"sources": torch.cat(sources), "mixed": torch.cat(pictures)}
            for name, weights in found.items():
                records.append(
                    {"policy": policy_name, "label": name, **_errors(torch.cat(weights), visible)}
                    | {"weights": torch.cat(weights), **visible, **shown}
                )
    return records


def _view(
    model: nn.Module, observers: Sequence[Observer], images: Tensor, mixed: mw.MixedBatch, labels: Tensor, boxes: Tensor
) -> mw.View:
    with observers[0].on_clean:
        clean = logits_of(model(images))
    fields: dict[str, Any] = observers[0].clean_fields(images)
    with observers[0].on_mixed, observers[1].on_mixed:
        logits = logits_of(model(mixed.images))
    fields |= observers[0].mixed_fields(mixed.images) | observers[1].mixed_fields(mixed.images)
    return mw.View(logits, clean, images=images, labels=labels, model=model, objects=boxes, **fields)


def _errors(weights: Tensor, visible: Mapping[str, Tensor]) -> dict[str, float]:
    found = {"": mw.label_error(weights, visible["area"]), "fraction_": mw.label_error(weights, visible["fraction"])}
    return {prefix + name: float(value) for prefix, part in found.items() for name, value in part.items()}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the means over the sample policies as a Markdown table, and the errors to the fraction per policy."""
    policies = list(dict.fromkeys(record["policy"] for record in records))
    lines = [
        "| label policy | error, area | error, fraction | correlation | off by > 0.3 | "
        + " | ".join(f"{name}, fraction" for name in policies)
        + " |",
        "| --- " * (5 + len(policies)) + "|",
    ]
    for label in dict.fromkeys(record["label"] for record in records):
        mine = [record for record in records if record["label"] == label]
        means = [sum(r[k] for r in mine) / len(mine) for k in ("error", "fraction_error", "correlation", "large")]
        each = [f"{record['fraction_error']:.3f}" for record in mine]
        lines.append(f"| `{label}` | " + " | ".join([f"{value:.3f}" for value in means] + each) + " |")
    return "\n".join(lines)


def _network(args: argparse.Namespace) -> tuple[nn.Module, mw.Normalization, int]:
    """Return the classifier, its normalization and the size of its images."""
    normalization = mw.Normalization(args.mean, args.std) if args.mean is not None else None
    if args.network.is_dir():
        config, path = read_config(args.network), args.network / "model.safetensors"
        known = mw.CIFAR10 if config.dataset.startswith("cifar") else mw.IMAGENET
        name, size, normalization = config.model, args.image_size or config.image_size, normalization or known
    else:
        if not args.model:
            raise RunError(f"{args.network} is not a run directory: name its architecture with --model timm/NAME")
        name, path, size = args.model, args.network, args.image_size or 224
    weights = read_weights(path)
    classes = _outputs(name, weights)
    model = models.build(name, classes, 3)
    load_weights(model, without_prefix(weights, model.state_dict()), path)
    return model.eval(), normalization or mw.IMAGENET, size


def _outputs(name: str, weights: Mapping[str, Tensor]) -> int:
    """Return the number of classes of the classifier in a file of weights."""
    head = mw.classifier_of(models.build(name, 2, 3))[0]
    found = next((value for key, value in weights.items() if key.endswith(f"{head}.weight")), None)
    if found is None:
        raise RunError(f"the weights have no {head}.weight, the classifier of {name}: check --model")
    return len(found)


def _expressions(kind: str, texts: Sequence[str], base: type) -> dict[str, Any]:
    found = {}
    for text in texts:
        try:
            value = mw.parse(text)
        except ValueError as error:
            raise RunError(f"{kind}: {error}") from None
        if not isinstance(value, base):
            raise RunError(f"{kind}: {text} is not a {base.__name__}")
        found[repr(value) if kind == "policy" else text] = value
    return found


def parsed_policies(texts: Sequence[str] = POLICIES) -> dict[str, mw.BatchPolicy]:
    """Return sample policies by name, each of which draws for every sample."""
    found = _expressions("policy", texts, mw.BatchPolicy)
    return {
        name: replace(policy, scope="sample") if getattr(policy, "scope", None) == "batch" else policy
        for name, policy in found.items()
    }


def parsed_labels(texts: Sequence[str] = LABELS) -> dict[str, mw.LabelPolicy]:
    """Return label policies by name."""
    with warnings.catch_warnings(action="ignore"):  # that a kappa lets labels saturate is what is measured here
        return _expressions("label", texts, mw.LabelPolicy)


def impossible(model: nn.Module, labels: Mapping[str, mw.LabelPolicy]) -> dict[str, str]:
    """Return the label policies that a model does not allow, and why."""
    reasons = {}
    for name, label in labels.items():
        try:
            Observer(model, label.needs)
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def main(argv: Sequence[str]) -> None:
    """Run ``mixwell labels``.

    Raises:
        RunError: The network, the boxes or an expression cannot be read.
    """
    parser = Parser("mixwell labels", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=expand, metavar="RUN_OR_WEIGHTS", help="run directory, or a file of weights")
    parser.add_argument("--data", type=expand, required=True, metavar="DIR", help="folder that the files are in")
    parser.add_argument("--boxes", type=expand, required=True, metavar="CSV", help="table of boxes")
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="POLICY", help="sample policies")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="label policies [all that the network allows]")
    parser.add_argument("--model", help="architecture of a file of weights, such as timm/NAME")
    parser.add_argument("--mean", type=float, help="mean of the normalization [of the run, or ImageNet's]")
    parser.add_argument("--std", type=float, default=1.0, help="standard deviation of the normalization")
    parser.add_argument("--image_size", type=int, help="side of the square the network sees (pixels)")
    parser.add_argument("--count", type=int, default=384, help="number of images [384]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of images and of the mixing [0]")
    parser.add_argument("--out", type=expand, metavar="DIR", help="write label_error.json and worst.png there")
    args = parser.parse_args(argv)
    if args.count < 2:
        raise RunError(f"--count must be at least 2, but got {args.count}")
    labels, policies = parsed_labels(args.labels or LABELS), parsed_policies(args.policies)
    model, normalization, size = _network(args)
    for name, reason in impossible(model, labels).items():
        if args.labels:
            raise RunError(f"{name}: {reason}")
        print(f"left out {name}: {reason}")
        del labels[name]
    objects = read_objects(args.data, args.boxes, size, args.count, args.seed)
    records = measure(model, objects, policies, labels, normalization, args.seed)
    print(f"{len(objects.images)} images, one draw per sample; means over {len(policies)} sample policies\n")
    print(table(records))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        numbers = [{k: v for k, v in record.items() if not isinstance(v, Tensor)} for record in records]
        write(args.out / "label_error.json", (json.dumps(numbers, indent=1) + "\n").encode())
        write(args.out / "worst.png", worst_cases(objects.images, objects.names, records))
        print(f"\nwrote {args.out / 'label_error.json'} and {args.out / 'worst.png'}")
