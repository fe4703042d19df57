"""Collect what ``mixwell labels`` measured, and write it into the pages.

    mixwell labels weights.safetensors --model timm/tf_efficientnet_lite0 --mean 0.5 --std 0.5 --image_size 144
        --data cub50 --boxes cub50/cub50.csv --out measured
    python benchmarks/label_error.py --add policies "EfficientNet-Lite0" measured    into results/label_error.jsonl
    python benchmarks/label_error.py    from there into docs/labels.md and docs/sumix.md

Every line of the results file is one sample policy with one label policy. Measurements of ``policies`` become a table
of each network, those of ``kappa`` the tables that compare networks and settings of SUMix. Data: CUB-200, of which the
first 50 classes are used, as an image folder with a table of boxes that has the columns ``file``, ``split``,
``class_index`` and ``bbox_x``, ``bbox_y``, ``bbox_w``, ``bbox_h``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "label_error.jsonl"
FIVE = ("CutMix()", "FMix()", "ResizeMix()", "GridMix()", "SaliencyMix()")
AREA = "PixelShare()"
STUDIES = ("policies", "kappa")
DIGITS = 4
KEYS = ("policy", "label", "fraction_error", "fraction_correlation", "fraction_large", "error", "correlation", "large")
Record = dict[str, Any]


def load(path: Path = RESULTS) -> list[Record]:
    """Return the records of the results file; an empty list where there is none."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def add(study: str, network: str, folder: Path, path: Path = RESULTS) -> None:
    """Add the measurements of ``mixwell labels --out FOLDER``, in place of older ones with the same names."""
    measured = json.loads((folder / "label_error.json").read_text())
    about = {"study": study, "network": network, **{key: measured[key] for key in ("images", "image_size", "seed")}}
    new = [{**{key: _rounded(value) for key, value in record.items()}, **about} for record in measured["records"]]
    names = {_name(record) for record in new}
    kept = [record for record in load(path) if _name(record) not in names]
    lines = (json.dumps({key: record[key] for key in (*about, *KEYS)}) for record in [*kept, *new])
    path.write_text("".join(f"{each}\n" for each in lines))


def _name(record: Record) -> tuple[str, ...]:
    return record["study"], record["network"], record["policy"], record["label"]


def _rounded(value: Any) -> Any:
    return round(value, DIGITS) if isinstance(value, float) else value


def mean(records: Iterable[Record], network: str, label: str, key: str = "fraction_error") -> float | None:
    """Return the mean over the five policies, or None if one of them was not measured."""
    found = {r["policy"]: r[key] for r in records if (r["network"], r["label"]) == (network, label)}
    return sum(found[policy] for policy in FIVE) / len(FIVE) if found.keys() >= set(FIVE) else None


def line(cells: Sequence[object]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |\n"


def by_label(records: Sequence[Record], network: str) -> str:
    """Return the table of a network: label policies down, sample policies across."""
    mine = [record for record in records if record["network"] == network]
    policies = list(dict.fromkeys(record["policy"] for record in mine))
    titles = [
        "label policy",
        "mean of 5",
        "to pixels",
        "correlation",
        "off by > 0.3",
        *(p.strip("()") for p in policies),
    ]
    lines = [line(titles), line(["---", *["---:"] * (len(titles) - 1)])]
    for label in dict.fromkeys(record["label"] for record in mine):
        keys = ("fraction_error", "error", "fraction_correlation", "fraction_large")
        means = [mean(records, network, label, key) for key in keys]
        found = {record["policy"]: record["fraction_error"] for record in mine if record["label"] == label}
        lines.append(line([f"`{label}`", *map(number, means), *(number(found.get(policy)) for policy in policies)]))
    return "".join(lines)


def by_network(records: Sequence[Record], labels: Sequence[str]) -> str:
    """Return the errors to the fraction, the mean of the five policies: networks down, label policies across."""
    networks = [n for n in dict.fromkeys(r["network"] for r in records) if mean(records, n, labels[0]) is not None]
    lines = [line(["network", *(f"`{label}`" for label in labels)]), line(["---", *["---:"] * len(labels)])]
    lines += [line([n, *(number(mean(records, n, label)) for label in labels)]) for n in networks]
    return "".join(lines)


def kappas(records: Sequence[Record], similarity: str) -> str:
    """Return the errors of one similarity of SUMix: networks down, ``kappa`` across."""
    pattern = re.compile(rf"SemanticShare\(similarity='{similarity}', kappa=([\d.]+)\)")
    found = {float(match[1]): r["label"] for r in records if (match := pattern.fullmatch(r["label"]))}
    values = sorted(found)
    networks = [
        n for n in dict.fromkeys(r["network"] for r in records) if mean(records, n, found[values[0]]) is not None
    ]
    lines = [line(["network", "area", *(f"`kappa` {value:g}" for value in values)])]
    lines.append(line(["---", *["---:"] * (1 + len(values))]))
    for network in networks:
        errors = [mean(records, network, label) for label in (AREA, *(found[value] for value in values))]
        lines.append(line([network, *_least_bold(errors)]))
    return "".join(lines)


def number(value: float | None) -> str:
    """Return a number with three digits."""
    return "-" if value is None else f"{value:.3f}"


def _least_bold(values: Sequence[float | None]) -> list[str]:
    least = min(number(value) for value in values if value is not None)
    return [f"**{number(value)}**" if number(value) == least else number(value) for value in values]


def filled(page: str, tables: dict[str, str]) -> str:
    """Return a page with each table between the markers that name it."""
    for name, table in tables.items():
        marked = re.compile(
            rf"(<!-- {name}: written by benchmarks/label_error.py -->\n).*?(?=<!-- end of {name} -->)", re.DOTALL
        )
        page, places = marked.subn(lambda found, table=table: f"{found[1]}\n{table}\n", page)
        if places != 1:
            raise ValueError(f"expected the markers of the table {name} once, but found them {places} times")
    return page


def pages(records: Sequence[Record]) -> dict[Path, dict[str, str]]:
    """Return the tables of each page."""
    labels = (AREA, "SemanticShare(similarity='distance', kappa=0.5)", "ActivationShare()")
    policies, settings = ([r for r in records if r["study"] == study] for study in STUDIES)
    networks = dict.fromkeys(record["network"] for record in policies)
    tables = "\n".join(f"{network}:\n\n{by_label(policies, network)}" for network in networks)
    return {
        ROOT / "docs" / "labels.md": {"label errors": tables, "networks": by_network(settings, labels)},
        ROOT / "docs" / "sumix.md": {
            f"errors by {similarity}": kappas(settings, similarity)
            for similarity in ("distance", "agreement", "released")
        },
    }


def main() -> None:
    """Add measurements, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", nargs=3, metavar=("STUDY", "NETWORK", "DIR"), help="policies or kappa, and a name")
    args = parser.parse_args()
    if args.add:
        study, network, folder = args.add
        if study not in STUDIES:
            parser.error(f"STUDY must be one of {', '.join(STUDIES)}, but is {study}")
        add(study, network, Path(folder))
        return
    for page, tables in pages(load()).items():
        page.write_text(filled(page.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
