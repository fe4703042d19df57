"""``mixwell show``: what a policy does to images, as a picture."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mixwell import BatchPolicy, parse
from mixwell.train import checkpoint, samples
from mixwell.train.errors import Parser, RunError
from mixwell.train.gallery import CONTRAST, RATIOS, drawable, gallery, parts, without_model
from mixwell.train.paths import expand
from mixwell.train.picture import FAINT, GAP, LEGEND, NARROWEST, SOURCES, Canvas, fitting, font, labelled, png, tinted
from mixwell.train.samples import Images, Sample

ABOUT = """\
Draw what a policy does: the clean images, whose pixel is whose, the mixed image and its label, at several ratios.

  mixwell show "CutMix(alpha=1)"                        on two photographs that ship with scikit-learn
  mixwell show "FMix(soft=0.2)" --images DIR            on images of your own
  mixwell show all                                      a gallery of all policies"""


def sheet(policy: BatchPolicy, images: Images, ratios: Sequence[float], seed: int, count: int) -> tuple[Canvas, str]:
    """Draw a policy at several ratios; one made of others gets a block for each.

    Returns:
        The picture, and the same in words.
    """
    canvas, told = Canvas(), [repr(policy)]
    canvas.text(0, 0, repr(policy), 22, bold=True)
    notes = [*LEGEND, *filter(None, [borrowed(policy)])]
    for line, words in enumerate(notes):
        canvas.text(0, 34 + 20 * line, words, 14, colour=FAINT)
    y, several = 48 + 20 * len(notes), [(without_model(part), words) for part, words in parts(policy)]
    for part, words in several:
        if len(several) > 1:
            canvas.text(0, y, words, 17, bold=True)
            y += 32
        for row in zip(*samples.at_ratios(part, images, ratios, seed, count), strict=True):
            y += block(canvas, y, row) + 2 * GAP
            told += [f"lam {sample.lam:.2f}: {sample}" for sample in row]
    return canvas, "\n".join(told)


def borrowed(policy: BatchPolicy) -> str:
    """Say what stands in for the saliency of a policy, or of its parts, that asks a model; nothing where none does.

    Example:
        >>> from mixwell import SnapMix
        >>> borrowed(SnapMix())
        "A picture has no model: SpectralResidual(), the images' contrast, stands in for ClassActivation()."
    """
    found = [part for part, _ in parts(policy) if without_model(part) is not part]
    asked = dict.fromkeys(repr(getattr(part, "saliency", None)) for part in found)
    where = ", ".join(asked)
    return f"A picture has no model: {CONTRAST!r}, the images' contrast, stands in for {where}." if asked else ""


def block(
    canvas: Canvas, y: int, row: Sequence[Sample], words: Callable[[Sample], str] = lambda sample: "share"
) -> int:
    """Draw one pair of images: the clean ones on the left, a column for each ratio beside them.

    Args:
        canvas: Drawn on.
        y: Upper edge (pixels).
        row: The same images at several ratios.
        words: What to write above each mask.

    Returns:
        The height used (pixels).
    """
    side = row[0].mixed.shape[2]
    column, caption = max(side, NARROWEST), 22
    for k, (pixels, name) in enumerate(zip(row[0].sources, row[0].names, strict=True)):
        top = y + k * (side + caption + GAP // 2)
        canvas.box(0, top + 4, 10, 10, SOURCES[k % len(SOURCES)])
        role = "anchor" if k == 0 else "partner"
        canvas.text(15, top, fitting(f"{role}: {name}", column - 15, 14), 14)
        canvas.tile(0, top + caption, pixels)
    second = y + side + caption + GAP // 2
    height = 0
    for place, sample in enumerate(row):
        x = (column + GAP) * (place + 1) + GAP
        canvas.text(x, y, f"lam {sample.lam:.2f}", 14, bold=True)
        canvas.text(x + font(14, True).getlength("lam 0.00 "), y, " " + words(sample), 14, colour=FAINT)
        canvas.tile(x, y + caption, tinted(sample.share))
        canvas.text(x, second, "mixed", 14, colour=FAINT)
        canvas.tile(x, second + caption, sample.mixed)
        below = second + caption + side + 8
        height = max(height, below - y + labelled(canvas, x, below, column, sample))
    return max(height, len(row[0].sources) * (side + caption + GAP // 2))


def _policy(text: str) -> BatchPolicy:
    try:
        policy = parse(text)
    except (TypeError, ValueError) as error:
        raise RunError(str(error)) from None
    if not isinstance(policy, BatchPolicy):
        raise RunError(f"expected a mixing policy such as CutMix(alpha=0.2), or all, but got {text}")
    return policy


def _ratio(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected shares of the anchor between 0 and 1, but got {text!r}")
    return value


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"pictures are PNG: expected a name that ends in .png, but got {text!r}")
    return expand(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, but got {text!r}")
    return int(text)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = Parser("mixwell show", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", metavar="POLICY", help="a policy, such as 'CutMix(alpha=1)', or all")
    parser.add_argument("--images", type=expand, metavar="FOLDER", help="folder of images [two sample photographs]")
    parser.add_argument(
        "--out", type=_picture, default=Path("grid.png"), metavar="PNG", help="where to draw [grid.png]"
    )
    parser.add_argument(
        "--ratios", type=_ratio, nargs="+", metavar="LAM", help="shares of the anchor [0.1 0.3 0.5 0.7 0.9]"
    )
    parser.add_argument("--size", type=_count, metavar="N", help="side of an image (pixels) [224; all: 112]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which images, and what is drawn [0]")
    parser.add_argument("--count", type=_count, default=2, metavar="N", help="pairs of images [2; all: 1]")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Draw what the arguments ask for, and say where it is.

    Raises:
        RunError: the policy, the images or the place to write are not usable; the sentence says what to do.
    """
    args = _arguments(argv)
    everything = args.policy == "all"
    size = args.size or (112 if everything else 224)
    policy = None if everything else _policy(args.policy)
    found = (
        samples.from_folder(args.images, args.count + 1, size, args.seed) if args.images else samples.photographs(size)
    )
    if policy is None:
        policies, left_out = drawable(found)
        canvas, told = gallery(policies, found, args.ratios or RATIOS, args.seed)
        for reason in left_out:
            print(f"left out {reason}", file=sys.stderr)
    else:
        canvas, told = sheet(policy, found, args.ratios or (0.1, 0.3, 0.5, 0.7, 0.9), args.seed, args.count)
        if borrowed(policy):
            print(borrowed(policy), file=sys.stderr)
    save(args.out, png(canvas.image(), told, limit=1_000_000 if policy is None else 0))
    print(f"{args.out}: {args.policy}")


def save(path: Path, content: bytes) -> None:
    """Write a file, with its folder where that is missing.

    Raises:
        RunError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.write(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {(error.strerror or str(error)).lower()}") from None
