"""Tables of Protocol B from its results file: means, paired differences, confidence intervals and p-values.

``python benchmarks/protocol_table.py`` writes ``docs/results.md``; with ``--row METHOD`` it prints how one method
compares with plain training and with CutMix, and whether it earns a row (p < 0.01 against plain).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from paired import CUTMIX, PLAIN, Record, Table, holm, load, table_of

import mixwell as mw
from mixwell.report.paired import Comparison

ROOT = Path(__file__).resolve().parent.parent
LEVEL = 0.01


def cells(*values: object) -> str:
    """Return one line of a Markdown table."""
    return f"| {' | '.join(map(str, values))} |"


def number(p: float | None, equals: str = "") -> str:
    """Return a p-value as text."""
    return "-" if p is None else "< 0.0001" if p < 0.0001 else f"{equals}{p:.4f}"


def accuracy_lines(table: Table) -> list[str]:
    """Return the table of test accuracy with paired differences."""
    groups = sorted(table.groups, key=lambda group: (group.epochs > table.epochs, -group.mean("test_top1")))
    tests = [group.against(table.reference(PLAIN, group)) for group in groups]
    adjusted = iter(holm([test.p for test in tests if test]))
    lines = [
        cells("method", "seeds", "top-1, %", "minus plain [95 % CI]", "p", "p, Holm", "minus CutMix [95 % CI]", "p"),
        cells("---", *["---:"] * 7),
    ]
    for group, test in zip(groups, tests, strict=True):
        other = group.against(table.reference(CUTMIX, group))
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


OTHERS = {
    "top-5, %": ("test_top5", 2),
    "NLL": ("test_nll", 3),
    "NLL, scaled": ("scaled_nll", 3),
    "ECE": ("test_ece", 3),
    "ECE, scaled": ("scaled_ece", 3),
    "FGSM top-1, %": ("fgsm_top1", 2),
    "training top-1, %": ("train_top1", 2),
    "CPU seconds": ("cpu_seconds", 0),
}
CHANGES = {name: (name, 2) for name in ("noise", "blur", "contrast", "pixelate", "occlusion")}


def measure_lines(table: Table, columns: dict[str, tuple[str, int]]) -> list[str]:
    """Return a table of other measures, in order of test NLL, without groups that lack one of them."""
    lines = [cells("method", *columns), cells("---", *["---:"] * len(columns))]
    complete = [group for group in table.groups if all(group.has(measure) for measure, _ in columns.values())]
    complete.sort(key=lambda group: group.mean("test_nll"))
    return lines + [cells(table.name(each), *(each.text(*column) for column in columns.values())) for each in complete]


EQUAL_TIME = (
    "Methods whose training takes at least as many CPU seconds as a longer training with another method, compared with "
    "that training."
)


def equal_time_lines(table: Table) -> list[str]:
    """Return every group beside longer trainings that took no more time."""
    longer = [group for group in table.groups if group.epochs > table.epochs]
    lines = [
        cells("method", "CPU seconds", "compared with", "CPU seconds", "top-1 minus its top-1 [95 % CI]", "p"),
        cells("---", "---:", "---", *["---:"] * 3),
    ]
    for group in sorted(table.groups, key=lambda group: -group.mean("test_top1")):
        for other in sorted(longer, key=lambda other: -other.mean("test_top1")):
            cost, theirs = group.mean("cpu_seconds"), other.mean("cpu_seconds")
            test = group.against(other) if group.epochs < other.epochs and theirs <= cost else None
            if test:
                names = table.name(group), f"{cost:.0f}", table.name(other), f"{theirs:.0f}"
                lines.append(cells(*names, test, number(test.p)))
    return lines


EFFECTS = (  # setting, its place among them, and the two values
    ("kappa", 1, 1.0, 0.5),
    ("gamma (the regulariser)", 2, 0.5, 0.0),
    ("similarity", 0, "agreement", "distance"),
    ("similarity", 0, "released", "distance"),
)
ABLATION = (
    "All combinations of similarity, `kappa` and `gamma` of SUMix over `CutMix(alpha=1.0)`. The effect of a setting is "
    "the difference of two of its values in top-1, averaged over the values of the others and paired by seed."
)


def ablation_lines(table: Table) -> list[str]:
    """Return the main effects of the settings of SUMix over CutMix."""
    runs: dict[tuple[Any, ...], dict[int, Record]] = {}
    for group in table.groups:
        method, _, policy = (part.strip() for part in group.method.partition("|"))
        if method.startswith("SUMix(") and policy == CUTMIX and group.epochs == table.epochs:
            settings = {"label": mw.SemanticShare(), "gamma": 0.5} | mw.parse(method).keywords
            label = settings["label"]
            if isinstance(label, mw.SemanticShare):
                runs[label.similarity, label.kappa, settings["gamma"]] = group.runs
    seeds = sorted(set.intersection(*map(set, runs.values()))) if runs else []
    lines = [cells("setting", "values", "effect [95 % CI]", "p", "combinations", "seeds"), cells(*["---"] * 6)]
    for name, place, value, other in EFFECTS:
        pairs = [
            (found, runs[rest])
            for key, found in runs.items()
            if key[place] == value and (rest := (*key[:place], other, *key[place + 1 :])) in runs
        ]
        means = [
            statistics.mean(a[seed]["test_top1"] - b[seed]["test_top1"] for a, b in pairs) for seed in seeds if pairs
        ]
        if test := Comparison.of(means):
            lines.append(cells(name, f"{value} minus {other}", test, number(test.p), len(pairs), len(seeds)))
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
        'paired t-test; "Holm" adjusts the p-values against plain training for the number of rows. A row with another '
        "number of epochs is compared with plain training and CutMix of as many epochs, or else of the epochs above.",
    ]


MEASURES = (
    "ECE with 15 bins; scaled: after temperature scaling on the held-out images. FGSM: one step of 8/255 on the first "
    "2,000 test images. CPU seconds are those of training on one thread."
)


CORRUPTION = (
    "Top-1 on the first 2,000 test images with noise, blur, less contrast, half the resolution, or a grey square of 16 "
    "pixels, as `benchmarks/protocol_robustness.py` makes them."
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
        ["## At equal time"],
        [EQUAL_TIME],
        equal_time_lines(table),
        ["## Likelihood, calibration, robustness and cost"],
        [MEASURES],
        measure_lines(table, OTHERS),
        ["## Corruption and occlusion"],
        [CORRUPTION],
        measure_lines(table, CHANGES),
        ["## Ablation of SUMix"],
        [ABLATION],
        ablation_lines(table),
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
    lines += [
        f"minus {name}: {test}, p {number(test.p, '= ')}, {test.count} pairs" for name, test in tests.items() if test
    ]
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
