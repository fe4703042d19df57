"""The data behind the report: CSV files, comparisons, published numbers, evaluation; and its look in a browser."""

from __future__ import annotations

import base64
import csv
import json
import statistics
from pathlib import Path

import pytest
from PIL import Image

from browser import chromium, complaints, elsewhere, overflow, resize
from mixwell.report import page as report_page
from mixwell.report import picture, table
from mixwell.train.recipes import Result
from mixwell.train.runs import groups, read_all
from report_pages import Reader, make_run, metrics, written


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with plain training of three seeds and CutMix of two."""
    for seed in range(3):
        make_run(tmp_path / "runs" / f"plain{seed}", seed)
    for seed in range(2):
        make_run(tmp_path / "runs" / f"cutmix{seed}", seed, policy="CutMix(alpha=0.2)")
    return tmp_path / "runs"


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the CSV files of a page by name."""
    links = [attributes for tag, attributes in Reader(text).tags if tag == "a" and "download" in attributes]
    found = {}
    for link in links:
        content = base64.b64decode((link["href"] or "").partition("base64,")[2]).decode()
        assert link["download"] not in found
        found[link["download"] or ""] = list(csv.reader(content.splitlines()))
    return found


def test_every_figure_has_its_data(runs: Path, tmp_path: Path) -> None:
    """The CSV files hold the numbers of the plots, the tables and the label bars."""
    found = tables(written(runs, out=tmp_path / "report.html"))
    loss = found["training-loss-digits.csv"]
    assert loss[0] == ["line", "epoch", "training loss (nats)"]
    own = [row for row in loss if row[0] == "plain, seed 1"]
    assert [float(row[2]) for row in own] == [record["train_loss"] for record in metrics(runs / "plain1")]
    assert found["results.csv"] == table.cells(groups(read_all([runs])))
    weights = found["mixed-samples-1.csv"]
    assert len(weights) == 1 + 2 * len(report_page.RATIOS) and sum(float(row[2]) for row in weights[1:3]) == 1
    assert {"runs.csv", "differences.csv", "environment-1.csv", "top-1-digits.csv"} <= found.keys()


def test_label_error_pictures(runs: Path, tmp_path: Path) -> None:
    """The picture that ``mixwell labels --out RUN`` wrote is in the page byte for byte, with its text and data."""
    page = written(runs, out=tmp_path / "report.html")
    assert "labels furthest from what is visible" not in page
    content = picture.png(Image.new("RGB", (4, 4)), "bird a 0.7, bird b 0.3\nbird c 0.2, bird d 0.8")
    (runs / "plain1" / "worst.png").write_bytes(content)
    page = written(runs, out=tmp_path / "report.html")
    (image,) = [
        attributes for tag, attributes in Reader(page).tags
        if tag == "img" and "labels furthest" in (attributes.get("alt") or "")
    ]  # fmt: skip
    assert base64.b64decode((image["src"] or "").partition("base64,")[2]) == content
    assert "bird a 0.7, bird b 0.3" in (image["alt"] or "")
    assert "bird c 0.2" in str(tables(page)["label-errors-1.csv"])


def test_paired_differences_agree_with_scipy(runs: Path, tmp_path: Path) -> None:
    """Seeds that both groups have are paired; interval and p-value are those of scipy's paired t-test."""
    from scipy.stats import ttest_rel

    make_run(runs / "cutmix2", 2, epochs=8, policy="CutMix(alpha=0.2)")
    make_run(runs / "cutmix7", 7, policy="CutMix(alpha=0.2)")  # has no partner
    last = [[metrics(runs / f"{name}{seed}")[-1]["val_top1"] for seed in range(3)] for name in ("cutmix", "plain")]
    test = ttest_rel(*last)
    low, high = test.confidence_interval(0.95)
    mean = statistics.mean(last[0]) - statistics.mean(last[1])
    expected = [f"{mean:+.2f} [{low:+.2f}, {high:+.2f}] %", f"{test.pvalue:.4f}"]
    assert ["digits", "CutMix(alpha=0.2)", "plain", "3", *expected] in Reader(
        written(runs, out=tmp_path / "report.html")
    ).rows


def test_published_numbers_stand_beside() -> None:
    """A group is found by network and data, policy and method; a method that decides where pixels go, by its name."""
    from mixwell.report.published import published
    from mixwell.train.runs import Group

    def group(*names: str) -> list[Result]:
        return published(Group(*names, "top1", []))

    found = {epochs: top1 for epochs, top1, _ in group("cifar100_resnet18_automix", "x", "AutoMix(a=1)")}
    assert found[800] == 82.04 and len(found) == 4
    (sumix,) = group("cifar100_resnet18", "CutMix(alpha=0.2)", "SUMix(kappa=1.0)")
    assert sumix == (800, 79.78, "README of SUMix")
    assert group("digits", "CutMix()", "Mixing") == []
    transmix, sumix = "Mixing(label=AttentionShare())", "SUMix(gamma=0.5)"
    assert [r.top1 for r in group("cifar100_deit_small_automix", "switch_mix()", transmix)] == [76.17, 79.33]
    assert [r.top1 for r in group("cub200_resnet18_cutmix", "FMix(alpha=1.0)", sumix)] == [79.24]


def test_rows_lead_to_commands(runs: Path, tmp_path: Path) -> None:
    """Every cell of the results leads to the commands of its runs."""
    page = Reader(written(runs, out=tmp_path / "report.html"))
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [(a["href"] or "")[1:] for tag, a in page.tags if tag == "a" and (a["href"] or "").startswith("#")]
    assert set(links) <= places and {"group-0", "group-1", "run-0"} <= set(links)


def evaluated(run: Path, shift: float = 0.0) -> None:
    """Write an ``eval.json`` as ``mixwell eval --suite`` does."""
    severity = {name: [10.0 * k + shift for k in range(1, 6)] for name in ("fog", "snow")}
    curve = {"share": [0.0, 50.0, 90.0], "accuracy": [90.0, 60.0 + shift, 20.0]}
    reliability = {"count": [0.0, 10.0], "confidence": [None, 0.9], "accuracy": [None, 0.8]}
    parts: dict[str, dict[str, object]] = {
        "accuracy": {"top1": 90.0 + shift},
        "calibration": {"reliability": reliability, "ece15": 0.05},
        "occlusion": {"occlusion_mean": curve, "occlusion_black": curve},
        "corruptions": {"errors_by_severity": severity},
    }
    figures = {
        part: {name: {"value": v, "unit": "%" * (name == "top1"), "how": "so."} for name, v in named.items()}
        for part, named in parts.items()
    }
    (run / "eval.json").write_text(json.dumps({"figures": figures}))


def test_evaluation_of_several_groups(runs: Path, tmp_path: Path) -> None:
    """Curves and figures are means over the evaluated runs of each group."""
    for seed in range(2):
        evaluated(runs / f"plain{seed}", shift=4.0 * seed)
    evaluated(runs / "cutmix0")
    text = written(runs, out=tmp_path / "report.html")
    page, found = Reader(text), tables(text)
    assert ["accuracy", "top1 (%)", "90.00", f"92.00 ± {statistics.stdev([90, 94]):.2f}"] in page.rows
    hidden = found["accuracy-by-share-of-hidden-patches.csv"]
    assert ["plain mean colour", "50.0", "62.0"] in hidden
    assert ["plain mean", "5", "52.0"] in found["error-by-severity-of-the-corruption.csv"]
    assert ["plain", "0.75", "0.8"] in found["accuracy-by-confidence.csv"]
    assert [tag for tag, _ in page.tags].count("svg") == 5


def test_in_a_browser(runs: Path, tmp_path: Path) -> None:
    """The page asks for nothing, complains about nothing and fits a phone, in light and in dark mode."""
    evaluated(runs / "plain0")
    make_run(
        runs / "long",
        policy="OneOf(policies=(CutMix(alpha=0.2), PuzzleMix(blocks=8, transport=False)), weights=(1, 3))",
    )
    written(runs, out=tmp_path / "report.html")
    with chromium(tmp_path / "profile") as browser:
        browser.get((tmp_path / "report.html").as_uri())
        for dark in ("light", "dark"):
            scheme = {"features": [{"name": "prefers-color-scheme", "value": dark}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
            for width in (1280, 390):
                resize(browser, width)
                assert overflow(browser) <= 0, (dark, width)
            paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") == (dark == "light")
        assert elsewhere(browser) == [] and complaints(browser) == []
