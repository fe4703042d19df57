"""The report shows what the run directories contain, and is one self-contained file."""

from __future__ import annotations

import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from mixwell.report import page as report_page
from mixwell.report import picture, table
from mixwell.train.config import Config
from mixwell.train.errors import RunError
from mixwell.train.recipes import RECIPES
from mixwell.train.runs import command, groups, read, read_all
from report_pages import DATA, Reader, make_run, metrics, written


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a folder with plain training of three seeds and CutMix of two."""
    for seed in range(3):
        make_run(tmp_path / "runs" / f"plain{seed}", seed)
    for seed in range(2):
        make_run(tmp_path / "runs" / f"cutmix{seed}", seed, policy="CutMix(alpha=0.2)")
    return tmp_path / "runs"


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
