"""The report shows what the run directories contain, and is one self-contained file."""

from __future__ import annotations

import base64
import csv
import json
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from browser import chromium, complaints, elsewhere, overflow, resize
from mixwell.report import page as report_page
from mixwell.report import picture, table
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.recipes import RECIPES
from mixwell.train.runs import command, groups, read, read_all

DATA = ("data:image/png;base64,", "data:text/csv;base64,")
VOID = {"meta", "img", "br", "hr", "input", "link"}


def make_run(path: Path, seed: int = 0, epochs: int = 12, done: int | None = None, **settings: str) -> Path:
    """Write a run directory as the loop does; with ``done`` it was stopped after so many epochs."""
    config = replace(RECIPES["digits"](), seed=seed, epochs=epochs, **settings)
    path.mkdir(parents=True)
    (path / "config.json").write_text(config.json())
    records = [
        {
            "epoch": epoch,
            "train_loss": 2 / epoch + seed / 100,
            "images_per_second": 1000.0 + 7 * epoch + seed,
            "seconds": 0.5 + 0.01 * seed,
        }
        | ({"val_top1": 90 + 5 * (epoch * (7 + seed) % 11) / 11} if epoch % 2 == 0 or epoch > epochs - 10 else {})
        for epoch in range(1, (epochs if done is None else done) + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if done is None:
        facts = {"validated_on": "test images", "environment": {"python": "3.11", "device": "cpu", "commit": None}}
        (path / "summary.json").write_text(
            json.dumps({**facts, "command": f"mixwell train digits --seed {seed} --out x"})
        )
    return path


def metrics(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


class Reader(HTMLParser):
    """Collects tags, text and table cells, and insists that every tag is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open[-2:]):  # a cell, or a link in it
            self.rows[-1][-1] += data


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with plain training of three seeds and CutMix of two."""
    for seed in range(3):
        make_run(tmp_path / "runs" / f"plain{seed}", seed)
    for seed in range(2):
        make_run(tmp_path / "runs" / f"cutmix{seed}", seed, policy="CutMix(alpha=0.2)")
    return tmp_path / "runs"


def written(*arguments: Path | str, out: Path) -> str:
    report_page.main([*map(str, arguments), "--out", str(out)])
    return out.read_text(encoding="utf-8")


def test_numbers_are_those_of_the_metrics(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every mean and deviation, on the page and in the terminal, can be computed from the files by hand."""
    page = Reader(written(runs, out=tmp_path / "report.html"))
    printed = capsys.readouterr().out
    for name, label in (("plain", "plain"), ("cutmix", "CutMix(alpha=0.2)")):
        found = [metrics(path) for path in sorted(runs.glob(f"{name}*"))]
        top1 = [[r["val_top1"] for r in run if "val_top1" in r] for run in found]
        tail = [[r["val_top1"] for r in run[-10:] if "val_top1" in r] for run in found]
        columns = [
            ([values[-1] for values in top1], 2),
            ([statistics.median(values) for values in tail], 2),
            ([max(values) for values in top1], 2),
            ([sum(r["seconds"] for r in run) for run in found], 1),
            ([statistics.median(r["images_per_second"] for r in run) for run in found], 0),
        ]
        cells = [f"{statistics.mean(v):,.{d}f} ± {statistics.stdev(v):,.{d}f}" for v, d in columns]
        expected = ["digits", label, str(len(found)), *cells]
        assert expected in page.rows
        assert expected in [[cell.strip() for cell in line.strip("| ").split("|")] for line in printed.splitlines()]


def test_page_holds_everything_itself(runs: Path, tmp_path: Path) -> None:
    """Nothing on the page comes from elsewhere, and nothing on it needs a script."""
    text = written(runs, out=tmp_path / "report.html")
    page = Reader(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            assert (attributes.get(name) or "#").startswith(("#", *DATA)), (tag, name)
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", re.sub(r"base64,[\w+/=]+", "", text))
    assert "prefers-color-scheme: dark" in text
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")


def test_page_shows_curves_samples_commands_and_facts(runs: Path, tmp_path: Path) -> None:
    """The page has all its parts, with units."""
    text = written(runs, out=tmp_path / "report.html")
    page = Reader(text)
    assert [tag for tag, _ in page.tags].count("svg") == 2
    for words in ("training loss (nats)", "top-1 (%)", "epoch", "Mixed samples", "Environment"):
        assert words in page.text
    assert page.text.count("mixwell train digits --seed 0 --out x") == 2
    assert ["python", "3.11"] in page.rows
    figures = [attributes.get("class") for tag, attributes in page.tags if tag == "figure"]
    assert figures.count("sample") == len(report_page.RATIOS)
    assert figures.count("chart") == 2
    assert "#0000" not in text  # a placeholder that no colour of the page has replaced


def test_few_seeds_are_pointed_out(runs: Path) -> None:
    """A group with fewer than three seeds is named in a remark."""
    remarks = " ".join(table.remarks(groups(read_all([runs]))))
    assert "Fewer than 3 seeds, too few for a comparison: CutMix(alpha=0.2) (2)." in remarks
    make_run(runs / "cutmix2", 2, policy="CutMix(alpha=0.2)")
    assert "too few" not in " ".join(table.remarks(groups(read_all([runs]))))


def validated_on(run: Path, images: str) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"validated_on": images, "test": {"top1": 71.25}}))


@pytest.mark.parametrize("kinds", [["test images"], ["held-out images"], ["test images", "held-out images"]])
def test_page_says_on_which_images_accuracy_was_measured(kinds: list[str], tmp_path: Path) -> None:
    """Test images are never called validation images; the words come from the summaries of the runs."""
    for k, kind in enumerate(kinds):
        validated_on(make_run(tmp_path / f"runs/{k}", k), kind)
    page = Reader(written(tmp_path / "runs", out=tmp_path / "report.html"))
    assert f"Top-1 accuracy on the {' or '.join(kinds)}:" in page.text
    assert f"Top-1 accuracy is measured on the {' or '.join(kinds)};" in page.text
    assert [row[6] for row in page.rows if row[0].startswith(str(tmp_path))] == kinds
    assert "validation" not in page.text
    assert ("test (%)" in page.rows[0]) == ("held-out images" in kinds)
    assert ("chosen by its accuracy on the test images" in page.text) == ("test images" in kinds)


def test_every_figure_has_a_text_alternative(runs: Path, tmp_path: Path) -> None:
    """Curves are described by their last values, mixed images by their labels, sheets of masks by their file."""
    folder = make_run(runs / "learned", method="SAMix") / "masks"
    folder.mkdir()
    (folder / "epoch_012.png").write_bytes(picture.png(Image.new("RGB", (8, 8)), "lam 0.25: 3 0.25, 4 0.75"))
    page = Reader(written(runs, out=tmp_path / "report.html"))
    last = statistics.mean(metrics(runs / f"plain{seed}")[-1]["train_loss"] for seed in range(3))
    labels = [attributes["aria-label"] or "" for tag, attributes in page.tags if tag == "svg"]
    assert f"over the epochs, last values: CutMix(alpha=0.2) {1 / 6 + 0.005:.4g} at 12; " in labels[0]
    assert f"plain {last:.4g} at 12" in labels[0]
    alternatives = [attributes["alt"] or "" for tag, attributes in page.tags if tag == "img"]
    assert sum(text.startswith("mixed image: 0 0.") for text in alternatives) == len(report_page.RATIOS)
    assert "masks learned by SAMix: lam 0.25: 3 0.25, 4 0.75" in alternatives


def test_cells_carry_their_titles_for_narrow_screens(runs: Path, tmp_path: Path) -> None:
    """A phone shows each row as a list, where the style sheet writes the title of its column before every cell."""
    text = written(runs, out=tmp_path / "report.html")
    titles = table.cells(groups(read_all([runs])))[0]
    assert [a["data-title"] for tag, a in Reader(text).tags if tag == "td"][: 2 * len(titles)] == 2 * titles
    assert "content: attr(data-title)" in text


def test_same_seed_twice_is_one_seed(tmp_path: Path) -> None:
    """Runs that repeat a seed do not count as several seeds."""
    paths = [make_run(tmp_path / str(k), seed=0) for k in range(3)]
    assert "plain (1)" in " ".join(table.remarks(groups(read_all(paths))))


def test_unfinished_run_counts_in_no_mean(runs: Path, tmp_path: Path) -> None:
    """A stopped run is shown, named and left out of the means."""
    make_run(runs / "plain3", 3, done=4)
    found = groups(read_all([runs]))
    plain = next(group for group in found if group.name == "plain")
    assert (len(plain.runs), len(plain.finished)) == (4, 3)
    page = Reader(written(runs, out=tmp_path / "report.html"))
    assert "plain3 is unfinished (4 of 12 epochs)" in page.text
    assert "mixwell train digits --epochs 12 --seed 3 --out" in page.text


def test_only_an_unfinished_run(tmp_path: Path) -> None:
    """A page can be made while the first run goes on."""
    page = Reader(written(make_run(tmp_path / "run", done=2), out=tmp_path / "report.html"))
    assert ["digits", "plain", "0", "–", "–", "–", "–", "–"] in page.rows


def test_runs_that_differ_in_more_than_the_seed(tmp_path: Path) -> None:
    """A mean over different settings is pointed out."""
    paths = [make_run(tmp_path / str(k), k, epochs=12 + k) for k in range(2)]
    assert "differ in more than the seed: epochs" in " ".join(table.remarks(groups(read_all(paths))))


def test_text_is_escaped(tmp_path: Path) -> None:
    """Names that look like HTML stay names."""
    evil = "<script>alert('x')</script>&\"|"
    run = make_run(tmp_path / "a<b>&", policy=evil)
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"command": evil, "environment": {"device": evil}}
    (run / "summary.json").write_text(json.dumps(summary))
    text = written(run, out=tmp_path / "report.html")
    page = Reader(text)
    assert "<script" not in text
    assert "<b>" not in text.replace("<b>0.", "").replace("<b>1.", "")
    assert ["device", evil] in page.rows
    assert evil in page.text
    assert "\\|" in table.markdown(groups([read(run)]))


def test_folder_of_runs_and_each_run_once(runs: Path) -> None:
    """A folder stands for the runs in it, and naming one twice changes nothing."""
    assert len(read_all([runs, runs / "plain0", runs / ".." / "runs" / "plain1"])) == 5


def test_command_makes_the_same_config() -> None:
    """The command line that stands for a config gives that config when it is parsed."""
    from mixwell.train.cli import _parser

    config = replace(RECIPES["digits"](), policy="CutMix(alpha=0.2)", seed=5, lr=0.025, flip=True)
    words = [word.strip("'") for word in command(config, Path("runs/a")).split(" ")[1:]]
    given = vars(_parser(words).parse_args(words))
    assert (
        replace(RECIPES[given["recipe"]](), **{name: given[name] for name in Config.types() if name in given}) == config
    )


def test_data_elsewhere_gives_photographs(tmp_path: Path) -> None:
    """Without the run's data the strip is drawn on photographs, and says so."""
    run = make_run(tmp_path / "run", policy="CutMix()")
    config = replace(Config.read((run / "config.json").read_text()), dataset="cifar10", data=str(tmp_path / "none"))
    (run / "config.json").write_text(config.json())
    assert "the data of the run are not available" in Reader(written(run, out=tmp_path / "report.html")).text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.json").unlink(), "has no config.json"),
        (lambda run: (run / "metrics.jsonl").unlink(), "has no metrics.jsonl"),
        (lambda run: [path.unlink() for path in run.iterdir()], "has no config.json and no metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "no validated epoch yet"),
        (
            lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1\n'),
            "line 1 of .* (is not|must be a) JSON",
        ),
        (lambda run: (run / "metrics.jsonl").write_text("[]\n"), "line 1 of .* (is not|must be a) JSON"),
        (lambda run: (run / "metrics.jsonl").write_text('{"epoch": 1}\n'), "has no seconds and no train_loss"),
        (lambda run: (run / "config.json").write_text("{"), "config.json: the config is not JSON"),
        (lambda run: (run / "summary.json").write_text("{"), "summary.json is not JSON"),
    ],
)
def test_damage_is_told_in_a_sentence(tmp_path: Path, damage: object, message: str) -> None:
    """What is missing or broken in a run directory is named."""
    run = make_run(tmp_path / "run")
    damage(run)  # type: ignore[operator]
    with pytest.raises(RunError, match=message) as error:
        written(run, out=tmp_path / "report.html")
    assert "run" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_such_run(tmp_path: Path) -> None:
    """A path that is nothing is called so."""
    with pytest.raises(RunError, match="no run directory"):
        written(tmp_path / "nothing", out=tmp_path / "report.html")


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

    found = {epochs: top1 for epochs, top1, _ in published(Group("cifar100_resnet18_automix", "x", "AutoMix(a=1)", []))}
    assert found[800] == 82.04 and len(found) == 4
    (sumix,) = published(Group("cifar100_resnet18", "CutMix(alpha=0.2)", "SUMix(kappa=1.0)", []))
    assert sumix == (800, 79.78, "README of SUMix")
    assert published(Group("digits", "CutMix()", "Mixing", [])) == []
    known = {"cifar10_resnext50"}  # published, without a recipe here
    for row in csv.DictReader((Path(report_page.__file__).parent / "published.csv").read_text().splitlines()):
        assert any(name.startswith(row["setting"]) for name in RECIPES) or row["setting"] in known, row


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
