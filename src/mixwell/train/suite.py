"""``mixwell eval --suite``: many measures of one classifier, with how each was computed, in ``eval.json`` and plots."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixwell.metrics import top_k_accuracy
from mixwell.normalization import Normalization
from mixwell.report.suite_plots import plots
from mixwell.train import images
from mixwell.train.accelerator import environment, start
from mixwell.train.config import Config
from mixwell.train.data import load
from mixwell.train.dataset import DataSet, Split, match_classes
from mixwell.train.errors import RunError, closest
from mixwell.train.evaluate import stored
from mixwell.train.files import write
from mixwell.train.loader import ProcessInfo, bad_images, evaluation_loader
from mixwell.train.suite_clock import Clock

MEMORY = 2**31  # bytes of decoded images to keep
Change = Callable[[Tensor, Tensor, Tensor], Tensor]  # from images, labels and rows to other images
NEEDED = {
    "ood": "out-of-distribution detection needs a folder of other images: add --ood DIR",
    "corrupted": "published corrupted images are measured with --corrupted DIR",
    "boxes": "boxes of the objects are needed: add --boxes CSV",
}


class UnavailableError(Exception):
    """A part cannot be measured here; the sentence says why. The other parts are measured."""


@dataclass(frozen=True)
class Figure:
    """One measured number, or several, and how it was computed.

    Attributes:
        value: A number; a list, or a dictionary of numbers and lists, for curves.
        how: One sentence.
        unit: Such as ``"%"``; empty for plain numbers.
    """

    value: Any
    how: str
    unit: str = ""


@dataclass(frozen=True)
class Others:
    """What some parts need beside the run; each may be missing.

    Attributes:
        ood: Folder of out-of-distribution images.
        corrupted: Folder of published corrupted images.
        baseline: Run whose corruption errors are the denominator of the mCE.
        transfer: Data set, a folder with ``train`` and ``test`` or ``val``, for the transfer of features.
        boxes: Table of the boxes of objects, as for ``mixwell labels``.
    """

    ood: Path | None = None
    corrupted: Path | None = None
    baseline: Path | None = None
    transfer: Path | None = None
    boxes: Path | None = None

    def check(self) -> None:
        """Raise ``RunError`` if a folder or the table does not exist."""
        for name in ("ood", "corrupted", "transfer"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise RunError(f"no folder {folder}, the value of --{name}")
        if self.boxes is not None and not self.boxes.is_file():
            raise RunError(f"no file {self.boxes}, the value of --boxes")


@dataclass
class Subject:
    """The classifier, the images it is measured on, and what the parts have in common.

    Attributes:
        model: In evaluation mode, on the device.
        split: Images that are measured.
        held: Other images of the data set, on which a temperature is fitted; None if there are none.
        config: Settings of the run.
        data: Classes, channels and normalization.
        precision: Context in which the model computes.
        others: Other images that some parts need.
        step: Called with a number of images after each forward pass.
    """

    model: nn.Module
    split: Split
    held: Split | None
    config: Config
    data: DataSet
    device: torch.device
    precision: Callable[[], Any]
    others: Others = Others()
    step: Callable[[int], None] = field(default=lambda count: None)

    @property
    def normalization(self) -> Normalization:
        """How the images are normalized."""
        return self.data.normalization

    def logits_of(self, batch: Tensor) -> Tensor:
        """Return the logits of normalized images, float32."""
        with self.precision():
            return self.model(batch).float()

    def batches(self, split: Split | None = None) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield normalized images, labels and rows in the split; by default of the images that are measured."""
        count = 0
        for batch, labels in self._loaded(self.measured if split is None else split):
            yield batch, labels, torch.arange(count, count + len(labels), device=self.device)
            count += len(labels)

    def _loaded(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        bad = bad_images(self.config)
        for batch, labels in evaluation_loader(split, self.data, self.config, ProcessInfo(self.device), bad):
            yield grey(batch) if batch.shape[1] > self.data.channels == 1 else batch, labels

    @cached_property
    def measured(self) -> Split:
        """The images that are measured, many times: files are decoded once, if they fit into memory."""
        pixels = self.data.channels * self.config.evaluation_size**2
        if isinstance(self.split.images, Tensor) or len(self.split) * pixels > MEMORY:
            return self.split
        space = self.normalization
        found = [((255 * space.pixels(batch)).round().byte().cpu(), part) for batch, part in self._loaded(self.split)]
        if not found:
            raise RunError("there are no images to measure the classifier on")
        images, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Split(images, labels.cpu())

    @torch.no_grad()
    def predict(self, split: Split | None = None, change: Change | None = None) -> tuple[Tensor, Tensor]:
        """Return logits and labels of a split, on the CPU, of images that ``change(images, labels, rows)`` has changed.

        Raises:
            RunError: There are no images.
        """
        found = []
        for batch, labels, rows in self.batches(split):
            batch = batch if change is None else change(batch, labels, rows)
            found.append((self.logits_of(batch).cpu(), labels.cpu()))
            self.step(len(labels))
        if not found:
            raise RunError("there are no images to measure the classifier on")
        logits, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
        return logits, labels

    def top1(self, change: Change | None = None, split: Split | None = None) -> float:
        """Return the accuracy in percent, see :meth:`predict`."""
        return top_k_accuracy(*self.predict(split, change)).item()

    def given(self, name: str) -> Path:
        """Return the value of an option that a part needs; raise ``UnavailableError`` if it was not given."""
        self.one_label()
        path = getattr(self.others, name)
        if path is None:
            raise UnavailableError(NEEDED[name])
        return path

    def one_label(self) -> None:
        """Raise ``UnavailableError`` if images have several labels."""
        if self.split.labels.ndim == 2:
            raise UnavailableError("images have several labels, and this is defined for one label per image")

    @cached_property
    def predictions(self) -> tuple[Tensor, Tensor]:
        """Logits and labels of the unchanged images."""
        return self.predict()


def grey(images: Tensor) -> Tensor:
    """Return the luminance of RGB images ``(B, 3, H, W)``, shape ``(B, 1, H, W)``.

    Images that are normalized by one mean and deviation for all channels may be given: the weights sum to one.
    """
    return torch.einsum("bchw,c->bhw", images, images.new_tensor([0.299, 0.587, 0.114]))[:, None]


def chosen(text: str, parts: Sequence[str], full: Sequence[str]) -> list[str]:
    """Return the names of the parts that ``--suite`` asks for.

    Raises:
        RunError: A part does not exist.

    Example:
        >>> chosen("full", ["a", "b", "slow"], ["a", "b"]), chosen("b,slow", ["a", "b", "slow"], ["a", "b"])
        (['a', 'b'], ['b', 'slow'])
    """
    names = [name for word in text.split(",") for name in (full if word.strip() == "full" else [word.strip()])]
    for name in names:
        if name not in parts:
            raise RunError(f"no suite called {name!r}{closest(name, parts)}: use full, or some of {', '.join(parts)}")
    return list(dict.fromkeys(names))


def subject(config: Config, run: Path, split: str = "test", others: Others = Others()) -> Subject:
    """Load the classifier of a run and the images it is measured on.

    Raises:
        RunError: The model or data set is missing or damaged, or several processes were started.
    """
    accelerator = start(config)
    if accelerator.num_processes > 1:
        raise RunError("mixwell eval --suite uses one process: start it without torchrun")
    others.check()
    model, measured, data = stored(config, run, split)
    other = load(config, only="val" if split == "test" else "test")
    held = None if _same(other.test, data.test) else match_classes(other.test, other.classes, data.classes)
    model = model.to(accelerator.device).eval().requires_grad_(False)
    precision = lambda: accelerator.autocast()  # noqa: E731, PLW0108  (its argument is not ours)
    return Subject(model, measured, held, config, data, accelerator.device, precision, others)


def _same(one: Split, other: Split) -> bool:
    if isinstance(one.images, Tensor) and isinstance(other.images, Tensor):
        return one.images.shape == other.images.shape and torch.equal(one.images, other.images)
    return one.images is other.images or (isinstance(one.images, list) and one.images == other.images)


def folder_of_images(folder: Path) -> Split:
    """Return all images below a folder, without labels (class 0).

    Raises:
        RunError: There are none.
    """
    paths = images.find_some(folder).paths
    return Split(paths, torch.zeros(len(paths), dtype=torch.long))


def evaluate_suite(
    config: Config, run: Path, suite: str, split: str = "test", command: str = "", **others: Path | None
) -> dict[str, Any]:
    """Measure the classifier of a run, and write ``eval.json`` and plots into the run.

    Args:
        config: The run's config.
        run: Its directory.
        suite: ``"full"``, or names of parts with commas between them.
        split: ``"test"`` or ``"val"``.
        command: The command line, which is stored.
        **others: See :class:`Others`.

    Returns:
        The content of ``eval.json``.

    Raises:
        RunError: A part does not exist, a part that is named needs what is not given, or the run or the data set cannot
            be read.
    """
    from mixwell.train.suite_parts import FULL, PARTS

    names = chosen(suite, list(PARTS), FULL)
    about = subject(config, run, split, Others(**others))
    skipped = _impossible(about, {name: PARTS[name].check for name in names}, suite)
    clock = Clock({name: PARTS[name].cost * len(about.split) for name in names if name not in skipped})
    about.step = clock.step
    found: dict[str, Any] = {}
    for name in clock.parts():
        try:
            figures = dict(PARTS[name].measure(about))
        except UnavailableError as reason:
            skipped[name] = str(reason)
        else:
            found[name] = {key: asdict(figure) for key, figure in figures.items()}
    record: dict[str, Any] = {
        "images": len(about.measured), "split": split, "suite": names, "command": command,
        "figures": _finite(found), "skipped": skipped, "seconds": round(sum(clock.seconds.values()), 1),
        "seconds_by_part": {name: round(seconds, 1) for name, seconds in clock.seconds.items()},
        "environment": environment(start(config)),
    }  # fmt: skip
    drawn = plots(record["figures"])
    record["plots"] = [f"eval_{name}.svg" for name in drawn]
    for name, content in drawn.items():
        write(run / f"eval_{name}.svg", content.encode())
    write(run / "eval.json", json.dumps(record, indent=1, allow_nan=False).encode())
    return record


def _impossible(about: Subject, checks: dict[str, Callable[[Subject], object]], suite: str) -> dict[str, str]:
    """Return the parts of ``full`` that cannot be measured and why; parts that were named must be possible."""
    named, reasons = {word.strip() for word in suite.split(",")}, {}
    for name, check in checks.items():
        try:
            check(about)
        except UnavailableError as reason:
            if name in named:
                raise RunError(f"the suite {name}: {reason}") from None
            reasons[name] = str(reason)
    return reasons


def _finite(value: Any) -> Any:
    """Replace NaN and Inf, which JSON does not have, by None."""
    return json.loads(json.dumps(value), parse_constant=lambda name: None)


def table(record: dict[str, Any]) -> str:
    """Return the single numbers of ``eval.json`` as text, and what was skipped.

    Example:
        >>> print(table({"figures": {"a": {"top1": {"value": 50.0, "unit": "%", "how": ""}}}, "skipped": {"b": "no."}}))
        a
          top1                               50.00 %
        skipped b: no.
    """
    lines = []
    for part, figures in record["figures"].items():
        lines.append(part)
        for name, figure in figures.items():
            value, unit = figure["value"], figure["unit"]
            if isinstance(value, dict | list):
                continue
            shown = "NaN or Inf" if value is None else f"{value:.2f} %" if unit == "%" else f"{value:.4f} {unit}"
            lines.append(f"  {name:<30} {shown.rstrip():>11}")
    return "\n".join([*lines, *(f"skipped {name}: {why}" for name, why in record["skipped"].items())])
