"""``mixwell labels``: how far label weights are from what is visible, on images with bounding boxes."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import mixwell as mw
from mixwell.features.isolation import undisturbed
from mixwell.features.observer import Observer
from mixwell.labels.objects import object_masks
from mixwell.report.label_errors import worst_cases
from mixwell.train import network
from mixwell.train.box_table import Objects, read_objects
from mixwell.train.errors import Parser, RunError, expression, mistakes, whole
from mixwell.train.files import write
from mixwell.train.paths import expand

ABOUT = """\
Measure how far label weights of mixed images are from the visible share of each object, on images whose objects have
bounding boxes. Two references are printed: the anchor's share of the visible object pixels ("area"), and the same with
the pixels of each object divided by its size ("fraction").

  mixwell labels runs/a --data DIR --boxes DIR/boxes.csv
  mixwell labels weights.safetensors --model timm/tf_efficientnet_lite0 --mean 0.5 --std 0.5 \\
      --image_size 144 --data cub50 --boxes cub50/cub50.csv

The CSV has a column file (path below DIR) and the box in pixels as bbox_x, bbox_y, bbox_w, bbox_h, or x, y, w, h, or
xmin, ymin, xmax, ymax, or x1, y1, x2, y2; optionally split (only "test" rows are used, where there are any) and
class_index. Several rows of one file are several boxes of the image; boxes are cut off at its border. Images that do
not exist or have no box inside them are left out."""
POLICIES = ("CutMix()", "FMix()", "ResizeMix()", "GridMix()", "SaliencyMix()", "SmoothMix()", "MixUp()", "GridMixup()")
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
    "SaliencyShare(ClassActivation())",
    "SaliencyShare(Attention())",
    "AttentionShare()",
    "AttentionShare(area=0.0)",
    "ProgressiveAttentionShare()",
    "TokenLabelAlignment()",
    "LUMixShare()",
    "ObjectShare()",
)
BATCH = 64


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
        seed: Seed of the mixing and of label policies that draw.

    Returns:
        One record per pair of policies: ``policy``, ``label``, ``error``, ``correlation`` and ``large`` for the area
        and, with ``fraction_`` before the name, for the fraction. Also ``weights``, ``area`` and ``fraction`` of every
        image, ``sources``, the rows of its two images, and ``mixed``, its pixels (uint8).
    """
    observer = Observer(model, frozenset().union(*(label.needs for label in labels.values())))
    height, width = objects.images.shape[2:]
    masks = object_masks(objects.boxes, len(objects.images), (height, width))
    parts: dict[str, list[dict[str, Tensor]]] = {name: [] for name in policies}
    with undisturbed(model), torch.random.fork_rng([]):
        torch.manual_seed(seed)  # for label policies that draw, as LUMixShare
        for start in range(0, len(masks) - 1, BATCH):
            rows = slice(start, start + BATCH)
            pixels = objects.images[rows].float() / 255
            images = pixels if normalization is None else normalization.normalize(pixels)
            given: dict[str, Any] = {"model": model, "normalization": normalization}
            clean = {"images": images, "labels": objects.labels[rows], "boxes": objects.boxes[rows], **given}
            clean |= observer.clean_pass(model, images)
            for name, policy in policies.items():
                generator = torch.Generator().manual_seed(seed + start)
                mixed = policy(images, objects.labels[rows], **given, generator=generator)
                area, fraction = mw.visible_objects(mixed.plan, masks[rows])
                shown = {"sources": mixed.plan.sources + start, "mixed": mixed.plan.apply(objects.images[rows])}
                view = mw.View(**clean, **observer.mixed_pass(model, mixed.images))
                weights = {label_name: label(mixed, view)[:, 0] for label_name, label in labels.items()}
                parts[name].append({"area": area, "fraction": fraction, **shown, **weights})
    records = []
    for name, batches in parts.items():
        found = {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}
        weights = {label_name: found.pop(label_name) for label_name in labels}
        records += [
            {"policy": name, "label": label_name, **_errors(each, found), "weights": each, **found}
            for label_name, each in weights.items()
        ]
    return records


def _errors(weights: Tensor, visible: Mapping[str, Tensor]) -> dict[str, float]:
    found = {"": mw.label_error(weights, visible["area"]), "fraction_": mw.label_error(weights, visible["fraction"])}
    return {prefix + name: float(value) for prefix, part in found.items() for name, value in part.items()}


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the means over the sample policies as a Markdown table, and the errors to the fraction per policy."""
    policies = list(dict.fromkeys(record["policy"] for record in records))
    rows = [["label policy", "error, area", "error, fraction", "correlation", "off by > 0.3"]]
    rows[0] += [f"{name}, fraction" for name in policies]
    rows.append(["---"] * len(rows[0]))
    for label in dict.fromkeys(record["label"] for record in records):
        mine = [record for record in records if record["label"] == label]
        means = [sum(r[k] for r in mine) / len(mine) for k in ("error", "fraction_error", "correlation", "large")]
        rows.append([f"`{label}`", *(f"{value:.3f}" for value in [*means, *(r["fraction_error"] for r in mine)])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def refused(
    model: nn.Module,
    objects: Objects,
    labels: Mapping[str, mw.LabelPolicy],
    normalization: mw.Normalization | None = None,
) -> dict[str, str]:
    """Return the label policies that a model does not allow, and why; four images tell."""
    few = Objects(objects.images[:4], objects.boxes[:4], objects.labels[:4], objects.names[:4])
    reasons = {}
    for name, label in labels.items():
        try:
            measure(model, few, {"CutMix()": mw.CutMix()}, {name: label}, normalization)
        except ValueError as error:
            reasons[name] = str(error)
    return reasons


def parsed_labels(texts: Sequence[str] = LABELS) -> dict[str, mw.LabelPolicy]:
    """Return label policies by name."""
    with warnings.catch_warnings(action="ignore"):  # that a kappa lets labels saturate is what is measured here
        return {text: expression(text, mw.LabelPolicy) for text in texts}


def parsed_policies(texts: Sequence[str] = POLICIES) -> dict[str, mw.BatchPolicy]:
    """Return sample policies by name, each of which draws for every sample."""
    policies = [expression(text, mw.BatchPolicy) for text in texts]
    return {repr(policy): _per_sample(policy) for policy in policies}


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixwell labels", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "network", type=expand, metavar="NETWORK", help="run directory, weights, or timm/NAME (untrained)"
    )
    parser.add_argument("--data", type=expand, required=True, metavar="DIR", help="folder that the files are in")
    parser.add_argument("--boxes", type=expand, required=True, metavar="CSV", help="table of boxes")
    parser.add_argument("--policies", nargs="+", default=POLICIES, metavar="POLICY", help="sample policies")
    parser.add_argument("--labels", nargs="+", metavar="LABEL", help="label policies [all that the network allows]")
    network.add_options(parser)
    parser.add_argument("--image_size", type=whole(1, 4096), help="side of the square the network sees (pixels)")
    parser.add_argument("--count", type=whole(2, 10**9), default=384, help="number of images [384]")
    parser.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, help="seed of random weights, images and mixing [0]"
    )
    parser.add_argument("--out", type=expand, metavar="DIR", help="write label_error.json and worst.png there")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Run ``mixwell labels``.

    Raises:
        RunError: The network, the boxes or an expression cannot be read.
    """
    args = _arguments(argv)
    labels, policies = parsed_labels(args.labels or LABELS), parsed_policies(args.policies)
    net = network.from_options(args.network, args, args.image_size, args.seed)
    objects = read_objects(args.data, args.boxes, net.size, args.count, args.seed)
    with mistakes():
        for name, reason in refused(net.model, objects, labels, net.normalization).items():
            if args.labels:
                raise RunError(f"{name}: {reason}")
            print(f"left out {name}: {reason}")
            del labels[name]
        records = measure(net.model, objects, policies, labels, net.normalization, args.seed)
    print(f"{len(objects.images)} images, one draw per sample; means over {len(policies)} sample policies\n")
    print(table(records))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        found = {"images": len(objects.images), "image_size": net.size, "seed": args.seed}
        found["records"] = [{k: v for k, v in record.items() if not isinstance(v, Tensor)} for record in records]
        write(args.out / "label_error.json", (json.dumps(found, indent=1) + "\n").encode())
        write(args.out / "worst.png", worst_cases(objects.images, objects.names, records))
        print(f"\nwrote {args.out / 'label_error.json'} and {args.out / 'worst.png'}")


def _per_sample(policy: mw.BatchPolicy) -> mw.BatchPolicy:
    """Return a policy that draws for every sample."""
    return replace(policy, scope="sample") if getattr(policy, "scope", None) == "batch" else policy
