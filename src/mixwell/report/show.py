"""``mixwell show``: a picture of what a policy does to images."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import mixwell as mw
from mixwell.report import picture, samples
from mixwell.report.gallery import CONTRAST, RATIOS, drawable, gallery, parts, without_model
from mixwell.report.samples import Images
from mixwell.train import checkpoint
from mixwell.train.errors import Parser, RunError

ABOUT = """\
Draw what a policy does at several ratios: clean images, masks, mixed images and labels.

  mixwell show "CutMix(alpha=1)"                        on two photographs that ship with scikit-learn
  mixwell show "FMix(soft=0.2)" --images DIR            on your own images
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
    return picture.sheet(repr(policy), [*picture.LEGEND, *filter(None, [replacement(policy)])], rows)


def replacement(policy: mw.BatchPolicy) -> str:
    """Return a sentence about the saliency that is replaced because it needs a model, or an empty string.

    Example:
        >>> replacement(mw.SnapMix())
        'Drawn without a model: ClassActivation() is replaced by image contrast, SpectralResidual().'
    """
    replaced = [part for part, _ in parts(policy) if without_model(part) is not part]
    names = ", ".join(dict.fromkeys(repr(getattr(part, "saliency", None)) for part in replaced))
    verb = "are" if ", " in names else "is"
    return f"Drawn without a model: {names} {verb} replaced by image contrast, {CONTRAST!r}." if names else ""


def _policy(text: str) -> mw.BatchPolicy:
    try:
        policy = mw.parse(text)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None
    if not isinstance(policy, mw.BatchPolicy):
        raise RunError(f"expected a mixing policy such as CutMix(alpha=0.2), or all, but got {text}")
    return policy


def _argument(convert: Callable[[str], Any], valid: Callable[[Any], bool], expected: str) -> Callable[[str], Any]:
    """Return a converter for argparse that accepts valid values only."""

    def read(text: str) -> Any:
        try:
            value = convert(text)
        except ValueError:
            value = None
        if value is None or not valid(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, but got {text!r}")
        return value

    return read


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixwell show", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    ratio = _argument(float, lambda value: 0 <= value <= 1, "a share of the anchor between 0 and 1")
    count = _argument(int, lambda value: value >= 1, "a whole number of at least 1")
    png = _argument(Path, lambda path: path.suffix.lower() == ".png", "a file name that ends in .png")
    parser.add_argument("policy", metavar="POLICY", help="a policy, such as 'CutMix(alpha=1)', or all")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="folder of images [two sample photographs]")
    parser.add_argument("--out", type=png, default=Path("grid.png"), metavar="PNG", help="output file [grid.png]")
    parser.add_argument("--ratios", type=ratio, nargs="+", metavar="LAM", help="shares of the anchor [0.1 ... 0.9]")
    parser.add_argument("--size", type=count, metavar="N", help="side of an image (pixels) [224; all: 112]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of images and random draws [0]")
    parser.add_argument("--count", type=count, default=2, metavar="N", help="pairs of images [2; all: 1]")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Draw what the arguments ask for, and print the name of the file.

    Raises:
        RunError: the policy, the images or the output file cannot be used.
    """
    args = _arguments(argv)
    everything = args.policy == "all"
    size, policy = args.size or (112 if everything else 224), None if everything else _policy(args.policy)
    if args.images:
        images = samples.from_folder(args.images, args.count + 1, size, args.seed)
    else:
        images = samples.photographs(size)
    if policy is None:
        policies, reasons = drawable(images)
        drawn, description = gallery(policies, images, args.ratios or RATIOS, args.seed)
        notes = [f"not drawn: {reason}" for reason in reasons]
    else:
        ratios = args.ratios or (0.1, 0.3, 0.5, 0.7, 0.9)
        drawn, description = sheet(policy, images, ratios, args.seed, args.count)
        notes = list(filter(None, [replacement(policy)]))
    for note in notes:
        print(note, file=sys.stderr)
    save(args.out, picture.png(drawn, description, margin=24, limit=1_000_000 if everything else 0))
    print(f"{args.out}: {args.policy}")


def save(path: Path, content: bytes) -> None:
    """Write a file; create its folder if needed.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
