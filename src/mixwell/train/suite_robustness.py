"""Parts of the suite that change the images: attacks, occlusion, corruptions."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Iterator
from functools import partial

import torch

from mixwell.evaluation.adversarial import autoattack as run_autoattack
from mixwell.evaluation.adversarial import fgsm, pgd
from mixwell.evaluation.corruptions import FUNCTIONS, SEVERITIES, STANDARD, corrupt, mean_corruption_error
from mixwell.evaluation.occlusion import SHARES, Fill, area, drop_patches
from mixwell.metrics import top_k_accuracy
from mixwell.train.corrupted_folder import corruptions_in, severities
from mixwell.train.errors import RunError
from mixwell.train.files import parsed, text
from mixwell.train.suite import Figure, Subject, UnavailableError
from mixwell.train.suite_predictions import Named

EPSILONS = (2, 4, 8)  # of 255
FILLS: tuple[Fill, ...] = ("mean", "black")


def adversarial(subject: Subject) -> Named:
    """Yield the accuracy under FGSM at three strengths and under PGD-10."""
    model, space, generator = subject.logits_of, subject.normalization, torch.Generator().manual_seed(0)
    for eps in EPSILONS:
        value = subject.top1(lambda images, labels, _, eps=eps: fgsm(model, images, labels, eps / 255, space))
        how = f"Accuracy after one signed gradient step of {eps}/255 in pixel values, kept inside [0, 1]."
        yield f"fgsm_{eps}", Figure(value, how, "%")
    value = subject.top1(lambda images, labels, _: pgd(model, images, labels, 8 / 255, space, generator=generator))
    how = "Accuracy after 10 steps of 2/255 from a random start, within 8/255 in pixel values and inside [0, 1]."
    yield "pgd10_8", Figure(value, how, "%")


def needs_autoattack(subject: Subject) -> None:
    """Raise ``UnavailableError`` if the package is not installed."""
    subject.one_label()
    if importlib.util.find_spec("pyautoattack") is None:
        raise UnavailableError("AutoAttack needs the package pyautoattack: pip install 'mixwell[attack]'")


def autoattack(subject: Subject) -> Named:
    """Yield the accuracy under the standard AutoAttack at 8/255."""
    model, space = subject.logits_of, subject.normalization
    value = subject.top1(lambda images, labels, _: run_autoattack(model, images, labels, 8 / 255, space))
    yield "autoattack_8", Figure(value, "Accuracy after the standard AutoAttack within 8/255 in pixel values.", "%")


def occlusion(subject: Subject) -> Named:
    """Yield accuracy over the share of hidden patches, for two colours of the patches."""
    for fill in FILLS:
        values = [top_k_accuracy(*subject.predictions).item()]
        for share in SHARES[1:]:
            generator = torch.Generator().manual_seed(0)  # larger shares hide more of the same patches
            hide = partial(
                drop_patches, share=share, fill=fill, normalization=subject.normalization, generator=generator
            )
            values.append(subject.top1(lambda images, *_, hide=hide: hide(images)))
        how = (
            f"Accuracy when 0 to 90 % of the cells of a 14 x 14 grid, other ones in each image, have the {fill} colour."
        )
        curve = {"share": [100 * share for share in SHARES], "accuracy": values}
        yield f"occlusion_{fill}", Figure(curve, how, "%")
        yield f"area_{fill}", Figure(area(values), f"Area under the curve of the {fill} colour, divided by 90 %.", "%")


def needs_baseline(subject: Subject) -> None:
    """Raise an error before the measurement if the baseline run has not been measured."""
    subject.one_label()
    _baseline(subject, "corruptions")


def corruptions(subject: Subject) -> Named:
    """Yield the error under 19 corruptions at 5 severities, made here."""
    space = subject.normalization

    def error(name: str, severity: int) -> float:
        return 100 - subject.top1(
            lambda images, _, rows: space.normalize(corrupt(space.pixels(images), name, severity, rows=rows))
        )

    errors = {name: [error(name, severity) for severity in SEVERITIES] for name in FUNCTIONS}
    size = "CIFAR-C" if subject.config.evaluation_size <= 64 else "ImageNet-C"
    yield from _summary(subject, "corruptions", errors, f"made here with the settings of {size} and seed 0")


def needs_corrupted(subject: Subject) -> None:
    """Raise an error before the measurement if there are no corrupted images, or the baseline has not been measured."""
    corruptions_in(subject.given("corrupted"))
    _baseline(subject, "corrupted")


def corrupted(subject: Subject) -> Named:
    """Yield the error on a published folder of corrupted images."""
    folder = subject.given("corrupted")
    errors = {
        name: [100 - subject.top1(split=part) for _, part in severities(folder, name, subject.data.classes)]
        for name in corruptions_in(folder)
    }
    yield from _summary(subject, "corrupted", errors, f"read from {folder.name}")


def _summary(subject: Subject, part: str, errors: dict[str, list[float]], source: str) -> Named:
    means = {name: statistics.mean(values) for name, values in errors.items()}
    for name, mean in means.items():
        yield name, Figure(mean, f"Mean error over 5 severities of {name}, {source}.", "%")
    standard = [mean for name, mean in means.items() if name in STANDARD]
    if standard:
        how = f"Mean error over {len(standard)} of the 15 standard corruptions and 5 severities, {source}."
        yield "mean_error_standard", Figure(statistics.mean(standard), how, "%")
    how = f"Mean error over {len(means)} corruptions and 5 severities, {source}."
    yield "mean_error", Figure(statistics.mean(means.values()), how, "%")
    yield "errors_by_severity", Figure(errors, f"Error at severities 1 to 5, {source}.", "%")
    yield from _relative(subject, part, means)


def _baseline(subject: Subject, part: str) -> dict[str, float]:
    """Return the mean error of the baseline run by corruption; nothing without a baseline.

    Raises:
        RunError: The baseline has not been measured.
    """
    if subject.others.baseline is None:
        return {}
    file = subject.others.baseline / "eval.json"
    try:
        theirs = parsed(text(file), str(file))["figures"][part]
        return {name: float(theirs[name]["value"]) for name in FUNCTIONS if name in theirs}
    except (KeyError, TypeError, RunError):
        raise RunError(
            f"{file} has no {part}: run mixwell eval {subject.others.baseline} --suite {part} first"
        ) from None


def _relative(subject: Subject, part: str, means: dict[str, float]) -> Iterator[tuple[str, Figure]]:
    """Yield the mCE if a baseline is named."""
    baseline = _baseline(subject, part)
    if not baseline:
        return
    standard = [name for name in means if name in STANDARD]
    for label, names in (("mce", standard), ("mce_all", list(means))):
        kept = {name: value for name, value in baseline.items() if name in names}
        how = f"Mean over {len(names)} corruptions of the error divided by that of the run {subject.others.baseline}."
        try:
            value = mean_corruption_error({name: means[name] for name in names}, kept)
        except ValueError as error:
            raise UnavailableError(str(error)) from None
        yield label, Figure(value, how, "%")
