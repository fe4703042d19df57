"""Tables of Protocol B from its results file: means, paired differences, confidence intervals and p-values.

``python benchmarks/protocol_table.py`` writes ``docs/results.md``; with ``--row METHOD`` it prints how one method
compares with plain training and with CutMix, and whether it earns a row (p < 0.01 against plain).
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student

ROOT = Path(__file__).resolve().parent.parent
PLAIN, CUTMIX = "NoMix()", "CutMix(alpha=1.0)"
LEVEL = 0.01
Record = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A paired t-test of one method against another: differences of runs with the same seed."""

    count: int
    mean: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> Comparison | None:
        """Return mean, 95 % confidence interval and two-sided p-value; None below two pairs."""
        count = len(differences)
        if count < 2:
            return None
        mean, error = statistics.mean(differences), statistics.stdev(differences) / count**0.5
        if not error:
            return cls(count, mean, mean, mean, 0.0 if mean else 1.0)
        reach = float(student.ppf(0.975, count - 1)) * error
        return cls(count, mean, mean - reach, mean + reach, 2 * float(student.sf(abs(mean) / error, count - 1)))

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Group:
    """All runs of one method with one number of epochs, by seed."""

    method: str
    epochs: int
    runs: dict[int, Record]

    def values(self, measure: str) -> list[float]:
        """Return a measure of every run, in order of seeds."""
        return [self.runs[seed][measure] for seed in sorted(self.runs)]

    def text(self, measure: str, digits: int = 2) -> str:
        """Return mean ± standard deviation over the seeds."""
        values = self.values(measure)
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.{digits}f}{spread}"

    def against(self, other: Group | None, measure: str = "test_top1") -> Comparison | None:
        """Compare with another group over the seeds that both have."""
        if other is None or other is self:
            return None
        seeds = sorted(self.runs.keys() & other.runs.keys())
        return Comparison.of([self.runs[seed][measure] - other.runs[seed][measure] for seed in seeds])


@dataclass(frozen=True)
class Table:
    """The groups of one setting of the protocol, plain training and CutMix first among equals."""

    groups: list[Group]
    epochs: int

    def group(self, method: str, epochs: int | None = None) -> Group | None:
        """Return the runs of a method, by default with the protocol's number of epochs."""
        wanted = (method, self.epochs if epochs is None else epochs)
        return next((group for group in self.groups if (group.method, group.epochs) == wanted), None)

    def name(self, group: Group) -> str:
        """Return how a row is called."""
        name = "plain" if group.method == PLAIN else f"`{group.method}`".replace("|", "over")
        return name if group.epochs == self.epochs else f"{name}, {group.epochs} epochs"


def load(path: Path) -> list[Record]:
    """Read a results file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def table_of(records: Iterable[Record]) -> Table:
    """Group compared runs by method; the number of epochs of plain training is the protocol's.

    Raises:
        ValueError: Runs differ in settings other than the number of epochs.
    """
    runs = [record for record in records if not record["tune"]]
    settings = {json.dumps({**run["settings"], "epochs": 0}, sort_keys=True) for run in runs}
    if len(settings) > 1:
        raise ValueError(
            f"All compared runs must share their settings except epochs, but there are {sorted(settings)}."
        )
    found: dict[tuple[str, int], dict[int, Record]] = {}
    for run in runs:
        found.setdefault((run["method"], run["settings"]["epochs"]), {})[run["seed"]] = run
    groups = [Group(method, epochs, seeds) for (method, epochs), seeds in found.items()]
    plain = [group for group in groups if group.method == PLAIN]
    if not plain:
        raise ValueError(f"There is no run of {PLAIN} to compare with.")
    return Table(groups, max(plain, key=lambda group: len(group.runs)).epochs)


def holm(ps: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's method, in the given order."""
    order = sorted(range(len(ps)), key=ps.__getitem__)
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


def cells(*values: object) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(map(str, values))} |"


def number(p: float | None) -> str:
    """Return a p-value as text."""
    return "-" if p is None else "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def accuracy_lines(table: Table) -> list[str]:
    """Return the table of test accuracy with paired differences."""
    plain, cutmix = table.group(PLAIN), table.group(CUTMIX)
    groups = sorted(table.groups, key=lambda group: -statistics.mean(group.values("test_top1")))
    tests = [group.against(plain) for group in groups]
    adjusted = iter(holm([test.p for test in tests if test]))
    lines = [
        cells("method", "seeds", "top-1, %", "minus plain [95 % CI]", "p", "p, Holm", "minus CutMix [95 % CI]", "p"),
        cells("---", *["---:"] * 7),
    ]
    for group, test in zip(groups, tests, strict=True):
        other = group.against(cutmix)
        lines.append(
            cells(
                table.name(group),
                len(group.runs),
                group.text("test_top1"),
                test or "-",
                number(test and test.p),
                number(next(adjusted) if test else None),
                other or "-",
                number(other and other.p),
            )
        )
    return lines


def measure_lines(table: Table) -> list[str]:
    """Return the table of all other measures."""
    heads = ("top-5, %", "NLL", "ECE", "ECE, scaled", "FGSM top-1, %", "training top-1, %", "CPU seconds")
    lines = [cells("method", *heads), cells("---", *["---:"] * len(heads))]
    for group in sorted(table.groups, key=lambda group: statistics.mean(group.values("test_nll"))):
        calibration = [group.text(name, 3) for name in ("test_nll", "test_ece", "scaled_ece")]
        rest = [group.text("fgsm_top1"), group.text("train_top1"), group.text("cpu_seconds", 0)]
        lines.append(cells(table.name(group), group.text("test_top5"), *calibration, *rest))
    return lines


def run_lines(table: Table) -> list[str]:
    """Return the test accuracy of every single run."""
    seeds = sorted({seed for group in table.groups for seed in group.runs})
    lines = [cells("method", *(f"seed {seed}" for seed in seeds)), cells("---", *["---:"] * len(seeds))]
    for group in table.groups:
        values = (f"{group.runs[seed]['test_top1']:.2f}" if seed in group.runs else "-" for seed in seeds)
        lines.append(cells(table.name(group), *values))
    return lines


def tuning_lines(records: Iterable[Record]) -> list[str]:
    """Return the runs that chose learning rate and weight decay."""
    tuned = [record for record in records if record["tune"]]
    heads = ("method", "epochs", "lr", "weight decay", "seed", "held-out top-1, %", "training top-1, %")
    lines = [cells(*heads), cells("---", *["---:"] * (len(heads) - 1))]
    for run in sorted(tuned, key=lambda run: -run["held_out_top1"]):
        settings = run["settings"]
        name = "plain" if run["method"] == PLAIN else f"`{run['method']}`"
        chosen = (settings["epochs"], settings["lr"], settings["weight_decay"], run["seed"])
        lines.append(cells(name, *chosen, f"{run['held_out_top1']:.2f}", f"{run['train_top1']:.2f}"))
    return lines


def protocol_lines(table: Table, settings: Record) -> list[str]:
    """Describe the protocol, and say whether plain training passes the gate."""
    plain = table.group(PLAIN)
    gate = min(plain.values("train_top1")) if plain else 0.0
    return [
        f"CIFAR-100 with its 20 superclasses as labels. `mini_resnet`, whose first convolution has stride "
        f"{settings['stem_stride']}, is trained on {settings['train_images']:,} images, the same in every run, for "
        f"{table.epochs} epochs: SGD with Nesterov momentum 0.9, batches of {settings['batch_size']}, learning rate "
        f"{settings['lr']} with a cosine schedule, weight decay {settings['weight_decay']}, random crops with "
        f"{settings['crop']} pixels of padding and flips, {settings['precision']}. Learning rate and weight decay were "
        f"tuned for plain training on {settings['held_out_images']:,} held-out images and are used for every method.",
        "",
        f"Gate: plain training must exceed 99 % top-1 on its own training images. Lowest run: {gate:.2f} %, "
        f"{'passed' if gate > 99 else 'NOT passed'}.",
        "",
        "Mean ± standard deviation over seeds on the 10,000 test images, last epoch. Differences are paired by seed: "
        "runs of one seed share initial weights, order and crops. Intervals and two-sided p-values are those of a "
        'paired t-test; "Holm" adjusts the p-values against plain training for the number of rows.',
    ]


MEASURES = (
    "ECE with 15 bins; scaled: after temperature scaling on the held-out images. FGSM: one step of 8/255 on the first "
    "2,000 test images. CPU seconds are those of training on one thread."
)


def page(records: list[Record]) -> str:
    """Return docs/results.md."""
    table = table_of(records)
    compared = [record for record in records if not record["tune"]]
    sources = sorted({run["source"][:10] for run in compared})
    versions = sorted({f"torch {run['versions']['torch']}, Python {run['versions']['python']}" for run in compared})
    parts = [
        ["# Results"],
        ["Written by `python benchmarks/protocol_table.py` from `results/protocol_b.jsonl`; do not edit."],
        ["## Protocol B: few images, from scratch"],
        protocol_lines(table, compared[0]["settings"]),
        accuracy_lines(table),
        ["## Likelihood, calibration, robustness and cost"],
        [MEASURES],
        measure_lines(table),
        ["## Every run"],
        ["Test top-1, %."],
        run_lines(table),
        ["## Tuning"],
        tuning_lines(records),
        [f"{len(compared)} compared runs; source trees {', '.join(sources)}; {'; '.join(versions)}."],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def verdict(table: Table, method: str) -> str:
    """Say how a method compares, and whether it earns a row."""
    group = table.group(method)
    if group is None:
        raise ValueError(f"There is no run of {method} with {table.epochs} epochs: run benchmarks/protocol_b.py first.")
    lines = [f"{method}: {group.text('test_top1')} % over {len(group.runs)} seeds"]
    tests = {name: group.against(table.group(name)) for name in (PLAIN, CUTMIX)}
    lines += [f"minus {name}: {test}, p = {number(test.p)}, {test.count} pairs" for name, test in tests.items() if test]
    test = tests[PLAIN]
    earned = test is not None and test.count >= 5 and test.mean > 0 and test.p < LEVEL
    lines.append(
        f"{'Earns' if earned else 'Does not earn'} a row: 5 pairs, a gain over plain training and p < {LEVEL}."
    )
    return "\n".join(lines)


def main() -> None:
    """Write the page, or print one comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "protocol_b.jsonl")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results.md")
    parser.add_argument("--row", help="print the comparison of this method, as it was given to protocol_b.py")
    args = parser.parse_args()
    records = load(args.results)
    if args.row:
        print(verdict(table_of(records), args.row))
    else:
        args.out.write_text(page(records))
        print("\n".join(accuracy_lines(table_of(records))))


if __name__ == "__main__":
    main()
