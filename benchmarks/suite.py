"""Time ``mixwell eval --suite full`` on a small network and 2,000 images of 32 x 32 pixels, part by part.

    python benchmarks/suite.py [--images 2000] [--suite full] [--profile]

The images are made here: one colour for each of ten classes, noise, and a textured object whose box is known. They are
PNG files, as are 400 images for training and 400 of other colours for out-of-distribution detection.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import os
import platform
import pstats
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mixwell.train import run
from mixwell.train.config import Config
from mixwell.train.suite import evaluate_suite

CLASSES, SIDE = 10, 32


def picture(generator: np.random.Generator, kind: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Return pixels ``(32, 32, 3)`` and the box of the object: left, top, width, height."""
    angle = 2 * np.pi * kind / CLASSES
    colour = 128 + 60 * np.cos(angle + np.array([0, 2.1, 4.2]))
    pixels = 110 + generator.normal(0, 40, (SIDE, SIDE, 3))
    wide, high = (int(n) for n in generator.integers(10, 24, 2))
    left, top = (int(generator.integers(0, SIDE - n)) for n in (wide, high))
    pixels[top : top + high, left : left + wide] = colour + generator.normal(0, 30, (high, wide, 3))
    return pixels.clip(0, 255).astype(np.uint8), (left, top, wide, high)


def make(folder: Path, images: int) -> None:
    """Write training and test images, their boxes, and other images."""
    generator, rows = np.random.default_rng(0), []
    for split, count in (("train", 400), ("test", images), ("other", 400)):
        for index in range(count):
            kind = index % CLASSES
            name = f"{split}/{kind}/{index}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pixels, box = picture(generator, kind if split != "other" else kind + CLASSES // 2)
            Image.fromarray(255 - pixels if split == "other" else pixels).save(folder / name)
            if split != "other":
                rows.append((name, split, kind, *box))
    with (folder / "boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split", "class_index", "x", "y", "w", "h"), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--suite", default="full")
    parser.add_argument("--model", default="mini_resnet")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.images)
        config = Config(
            dataset="folder", data=name, model=args.model, image_size=SIDE, eval_crop=1.0, epochs=1, batch_size=100,
            lr=0.05, scale=0.8, threads=args.threads, device="cpu",
        )  # fmt: skip
        run(config, folder / "run")
        profile = cProfile.Profile()
        wall, cpu = time.perf_counter(), os.times()
        if args.profile:
            profile.enable()
        record = evaluate_suite(config, folder / "run", args.suite, ood=folder / "other", boxes=folder / "boxes.csv")
        profile.disable()
        wall, spent = time.perf_counter() - wall, os.times()
    for part, seconds in record["seconds_by_part"].items():
        print(f"{part:<14} {seconds:7.1f} s")
    print(f"skipped: {record['skipped']}")
    print(f"top-1 {record['figures'].get('accuracy', {}).get('top1', {}).get('value')} %")
    print(f"all            {wall:7.1f} s, CPU {spent.user + spent.system - cpu.user - cpu.system:.1f} s,")
    print(f"{args.images} images, {args.threads} threads, {platform.machine()}, torch {torch.__version__}")
    if args.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
