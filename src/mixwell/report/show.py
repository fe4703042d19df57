"""``mixwell show``: a picture of the mixed images of a policy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

import mixwell as mw
from mixwell.report import label_sheet, picture, samples
from mixwell.report.gallery import CONTRAST, RATIOS, drawable, gallery, parts, without_model
from mixwell.report.samples import Images
from mixwell.train import network
from mixwell.train.errors import Parser, check_memory, expression, whole
from mixwell.train.files import save
from mixwell.train.paths import expand

LARGEST = 4096  # side of an image (pixels), and number of pairs
ABOUT = """\
Draw what a policy does at several ratios: clean images, masks, mixed images and labels.

  mixwell show "CutMix(alpha=1)"                        on two photographs that ship with scikit-learn
  mixwell show "FMix(soft=0.2)" --images DIR            on your own images
  mixwell show CutMix --label "ActivationShare()" --network runs/a    label weights and what they count
  mixwell show all                                      a gallery of all policies"""


def sheet(
    policy: mw.BatchPolicy, images: Images, ratios: Sequence[float], seed: int, count: int
) -> tuple[Image.Image, str]:
    """Draw a policy at several ratios, one row for each pair of images and each part of the policy.

    Returns:
        The picture, and the same in words.
    """
    rows, several = [], parts(policy)
    for part, when in several:
        found = zip(*samples.at_ratios(without_model(part), images, ratios, seed, count), strict=True)
        for number, pair in enumerate(found):
            heading = when if number == 0 and len(several) > 1 else ""
            rows.append((heading, [(f"lam {sample.lam:.2f}", sample) for sample in pair]))
    return picture.sheet(repr(policy), [*picture.LEGEND, *replacements(policy)], rows)


def replacements(policy: mw.BatchPolicy) -> list[str]:
    """Return a sentence for each kind of saliency that needs a model and is replaced.

    Example:
        >>> replacements(mw.SnapMix())
        ['Drawn without a model: image contrast, SpectralResidual(), replaces ClassActivation().']
    """
    replaced = [getattr(part, "saliency", None) for part, _ in parts(policy) if without_model(part) is not part]
    return [
        f"Drawn without a model: image contrast, {CONTRAST!r}, replaces {source!r}."
        for source in dict.fromkeys(replaced)
    ]


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixwell show", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", metavar="POLICY", help="a policy, such as 'CutMix(alpha=1)', or all")
    parser.add_argument("--images", type=expand, metavar="FOLDER", help="folder of images [two sample photographs]")
    parser.add_argument("--out", type=expand, default=Path("grid.png"), metavar="PNG", help="output file [grid.png]")
    parser.add_argument("--ratios", type=float, nargs="+", metavar="LAM", help="shares of the anchor [0.1 ... 0.9]")
    parser.add_argument("--size", type=int, metavar="N", help="side of an image (pixels) [224; all: 112]")
    parser.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="seed of images and random draws [0]"
    )
    parser.add_argument("--count", type=int, default=2, metavar="N", help="pairs of images [2; all: 1]")
    parser.add_argument("--label", nargs="+", metavar="LABEL", help="label policies, such as 'ActivationShare()'")
    parser.add_argument("--network", type=expand, help="for --label: run directory, weights or timm/NAME")
    network.add_options(parser)
    args = parser.parse_args(argv)
    if args.label and args.policy == "all":
        parser.error("--label needs one policy, but got all")
    if args.network and not args.label:
        parser.error("--network is read by label policies: name one with --label")
    if args.out.suffix.lower() != ".png":
        parser.error(f"--out expects a file name that ends in .png, but got {args.out}")
    if wrong := [ratio for ratio in args.ratios or () if not 0 <= ratio <= 1]:
        parser.error(f"--ratios expects shares of the anchor between 0 and 1, but got {wrong[0]:g}")
    sizes = (1 if args.size is None else args.size, args.count)
    if min(sizes) < 1:
        parser.error(f"--size and --count must be at least 1, but got {min(sizes)}")
    if max(sizes) > LARGEST:
        parser.error(f"--size and --count must be at most {LARGEST}, but got {max(sizes)}")
    return args


def main(argv: Sequence[str]) -> None:
    """Draw the picture that the arguments describe, and print the name of the file.

    Raises:
        RunError: the policy, the images or the output file cannot be used.
    """
    args = _arguments(argv)
    policy = None
    if args.policy != "all":
        policy = expression(args.policy, mw.BatchPolicy, "a mixing policy such as CutMix(alpha=0.2), or all")
    net = network.from_options(args.network, args, args.size, args.seed) if args.network else None
    args.size = args.size or (net.size if net else 112 if policy is None else 224)
    if args.images:
        images = samples.from_folder(args.images, args.count + 1, args.size, args.seed)
    else:
        images = samples.photographs(args.size)
    if policy is None:
        policies, reasons = drawable(images)
        drawn = gallery(policies, images, args.ratios or RATIOS, args.seed)
        notes = [f"not drawn: {reason}" for reason in reasons]
    else:
        ratios, notes = args.ratios or (0.1, 0.3, 0.5, 0.7, 0.9), replacements(policy)
        check_memory(len(ratios) * len(images.pixels), args.size)
        if args.label:
            expected = "a label policy such as PixelShare()"
            labels = {text: expression(text, mw.LabelPolicy, expected) for text in args.label}
            drawn = label_sheet.sheet(policy, labels, net, images, ratios, args.seed, args.count)
        else:
            drawn = sheet(policy, images, ratios, args.seed, args.count)
    for note in notes:
        print(note, file=sys.stderr)
    save(args.out, picture.png(*drawn, limit=1_000_000 * (policy is None)))
    print(f"{args.out}: {args.policy}")
