"""CSV files as data sets: one label per image or several, in the reader and through the whole program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate")
pytest.importorskip("torchvision")
from PIL import Image
from sklearn.metrics import average_precision_score

from mixwell import models
from mixwell.report.page import main as report
from mixwell.train import data as sets
from mixwell.train.check import main as check
from mixwell.train.checkpoint import read_weights
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.dataset import DataSet
from mixwell.train.errors import RunError
from mixwell.train.runs import read

BCE = "BinaryCrossEntropy()"


def write(root: Path, lines: str) -> Path:
    """Write a CSV file, and the eight images that it may name."""
    root.mkdir(exist_ok=True)
    for n in range(8):
        Image.new("RGB", (8, 8), (n, n, n)).save(root / f"{n}.png")
    (root / "labels.csv").write_text(lines)
    return root / "labels.csv"


def load(path: Path, only: str = "", **values: Any) -> DataSet:
    return sets.load(Config(dataset="csv", data=str(path), **values), only)


@pytest.mark.parametrize(
    ("lines", "classes", "train", "val"),
    [
        ("file,label,split\n0.png,b,train\n1.png,a,train\n2.png,a,val", ["a", "b"], [1, 0], [0]),
        ("\ufefffile , labels,split\r\n0.png,b|a,train\r\n\r\n1.png,\"a; c\",train\r\n2.png,c,val\r\n", ["a", "b", "c"],
         [[1, 1, 0], [1, 0, 1]], [[0, 0, 1]]),
        ("z,file,split,a\n0,0.png,train,1\n0,1.png,train,0\n1.0,2.png,val,1", ["z", "a"], [[0, 1], [0, 0]], [[1, 1]]),
        ("label,box,file,split\n10,7;7,0.png,train\n9,x,1.png,train\n9,,2.png,test", ["9", "10"], [1, 0], [0]),
    ],
)  # fmt: skip
def test_files_are_read(tmp_path: Path, lines: str, classes: list[str], train: list[Any], val: list[Any]) -> None:
    for path in (write(tmp_path / "set", lines), tmp_path / "set"):
        found = load(path)
        assert found.classes == classes and found.train.images == [tmp_path / "set" / f"{n}.png" for n in (0, 1)]
        assert found.train.labels.tolist() == train and found.val.labels.tolist() == val
    assert load(path, "val").test.labels.tolist() == val


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("", "no column 'file' in its first line, which is ''"),
        ("image,label\n0.png,a", "no column 'file' in its first line, which is 'image,label'"),
        ("file;label\n0.png;a", "no column 'file' in its first line, which is 'file;label'"),
        ("file,split\n0.png,train", "has no labels: expected a column 'label', or a column of 0 and 1"),
        ("file,label,spilt\n0.png,a,val", "unknown column 'spilt'; did you mean split?"),
        ("file,a,b,a\n0.png,1,0,1", "more than one column 'a'"),
        ("file,label\n0.png,a\n1.png,b,c", "line 3 of {} has 3 values, and the first line has 2"),
        ("file,label\n\n0.png", "line 3 of {} has 1 values"),
        ('file,label\n0.png,a\n1.png,"b"c', "line 3 of {} is damaged"),
        ("file,label\n0.png,a\n1.png,;", "line 3 of {} has no label"),
        ("file,a,b\n0.png,1,0\n1.png,yes,0", "line 3 of {} has 'yes' in column 'a': expected 0 or 1, or a column"),
        ("file,label,split\n0.png,a,train\n1.png,b,dev", "line 3 of {} has the split 'dev': expected train, val, test"),
        ("file,label,split\n0.png,a,train\n9.png,b,train\n1.png,b,val",
         "line 3 of {} names an image that does not exist"),
        ("file,label\n0.png,a\n1.png,b\n0.png,b\n", "line 4 of {0} has other labels than line 2 of {0}, with the"),
        ("file,label,split\n0.png,a,train\n0.png,a,val\n", "line 3 of {} lists an image for val that is also"),
        ("file,label\n0.png,a\n1.png,a", "has 1 classes: expected two or more"),
        ("file,label\n0.png,a\n1.png,b", "no images to validate on in {}: add a split val or test"),
        ("file,label,split\n0.png,a,val\n1.png,b,val", "no training images in {}"),
    ],
)  # fmt: skip
def test_mistakes_are_sentences(tmp_path: Path, lines: str, sentence: str) -> None:
    path = write(tmp_path, lines)
    with pytest.raises(RunError) as caught:
        load(path)
    assert sentence.format(path) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no CSV file .*labels.csv: name it with --data"):
        load(tmp_path)
    for content, sentence in (
        (b"file,label\n\xff.png,a", "not UTF-8 text"),
        (b"file,label\n" + b"x" * 200_000, "line"),
    ):
        (tmp_path / "labels.csv").write_bytes(content)
        with pytest.raises(RunError, match=sentence):
            load(tmp_path)


def test_splits_of_several_labels(tmp_path: Path) -> None:
    """Held-out images and subsets have every class on both sides; a class with one image cannot be shared out."""
    rows = ["common"] * 5 + ["common|rare", "rare", "common|rare"]
    path = write(tmp_path, "\n".join(["file,labels", *(f"{n}.png,{row}" for n, row in enumerate(rows))]))
    for share in (0.1, 0.3, 0.6):
        found = load(path, val_split=share)
        assert min(found.train.counts(2) + found.val.counts(2)) >= 1 and len(found.train) + len(found.val) == 8
    assert load(path, val_split=0.3, subset=6).train.labels.sum(0).min() >= 1
    path.write_text("file,labels\n0.png,a|b\n1.png,b\n2.png,b")
    with pytest.raises(RunError, match="class 'a' has one"):
        load(path, val_split=0.5)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a CSV file of images with any number of three colours in them, in noise."""
    root, draws = tmp_path_factory.mktemp("colours"), np.random.default_rng(0)
    lines = ["file,split,red,green,blue"]
    for n in range(60):
        labels = draws.integers(2, size=3)
        pixels = draws.integers(0, 200, (16, 16, 3)) + 55 * labels
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{n}.png")
        lines.append(f"{n}.png,{'train' if n < 36 else 'val' if n < 48 else 'test'},{','.join(map(str, labels))}")
    (root / "labels.csv").write_text("\n".join(lines))
    return root / "labels.csv"


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    settings = {"data": data, "model": "mini_resnet", "image_size": 16, "batch_size": 6, "workers": 0, "epochs": 2,
                "warmup": 0, "device": "cpu", "eval_crop": 1.0, "out": out}  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return ["train", "folder", "--dataset", "csv", *words, *more]


def test_a_softmax_loss_is_refused_before_training(
    colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for loss in ("", "CrossEntropy()", "FocalLoss()", "DecoupledCrossEntropy()"):
        assert main(arguments(colours, tmp_path / "run", *(["--loss", loss] if loss else []))) == 2
        error = capfd.readouterr().err
        assert "several labels" in error and "use --loss 'BinaryCrossEntropy()'" in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["Mixing", "AutoMix"])
def test_several_labels_through_the_program(
    colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], method: str
) -> None:
    """Train, resume, evaluate and report; mAP is that of scikit-learn on the logits of the stored classifier."""
    run = tmp_path / "run"
    assert main(arguments(colours, run, "--loss", BCE, "--method", method, "--ema", "0.5")) == 0
    out = capfd.readouterr().out
    assert "val_map" in out and "top" not in out and ": mAP " in out
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    for name in ("val", "ema"):
        values = [record[f"{name}_map"] for record in records]
        assert summary[f"{name}_map"]["last"] == values[-1] and summary[f"{name}_map"]["best"] == max(values)
        assert summary[f"{name}_map"]["best_epoch"] == 1 + values.index(max(values))
    assert not [name for name in {*records[0], *summary, *summary["test"]} if "top" in name]

    data = load(colours, image_size=16)
    model = models.build("mini_resnet", 3, 3)
    model.load_state_dict(read_weights(run / "model.safetensors"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in data.test.images]).transpose(0, 3, 1, 2) / 255  # type: ignore[arg-type]
    mean, std = (np.array(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy((pixels - mean) / std).float())
    expected = 100 * average_precision_score(data.test.labels.numpy(), logits.numpy(), average="macro")
    assert main(["eval", str(run), "--json"]) == 0
    measured = json.loads(capfd.readouterr().out)
    assert measured["map"] == pytest.approx(expected, abs=1e-4) and measured["images"] == 12
    assert summary["test"]["map"] == measured["map"]
    assert main(["eval", str(run)]) == 0 and "mAP" in capfd.readouterr().out

    report([str(run), "--out", str(tmp_path / "report.html")])
    table, page = capfd.readouterr().out, (tmp_path / "report.html").read_text()
    assert f"{summary['val_map']['last']:.2f}" in table and f"{measured['map']:.2f}" in table and "(mAP)" in table
    assert "mAP on the held-out images" in page and "mAP (%) over the epochs" in page and "op-1" not in page
    assert read(run).best == max(record["val_map"] for record in records)


def test_several_labels_resume(colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A run that stops after its first epoch ends with the same weights, and notices labels that have changed."""
    from mixwell.train import launch
    from mixwell.train.loop import Training

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ("--loss", BCE, "--policy", "CutMix()")
    assert main(arguments(colours, whole, *options)) == 0
    save = Training.save

    def once(training: Training, epoch: int) -> None:
        save(training, epoch)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch.Training, "save", once)
        assert main(arguments(colours, stopped, *options)) == 130
    assert main(["train", "--resume", str(stopped)]) == 0
    one, other = (read_weights(run / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(one[name], other[name]) for name in one)
    capfd.readouterr()
    lines = colours.read_text().splitlines()
    changed = tmp_path / "changed.csv"
    changed.write_text("\n".join([lines[0], *(str(colours.parent / line) for line in lines[1:-1])]))
    assert main(["train", "--resume", str(stopped), "--data", str(changed)]) == 2
    assert "the data set has changed since the run began: class" in capfd.readouterr().err


def test_check(colours: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check([str(colours), "--dataset", "csv"])
    out = capfd.readouterr().out
    assert "test: 12 images of 3 classes" in out and "60 images can be read, 16x16 to 16x16 pixels" in out
    path = write(tmp_path, "file,labels,split\n0.png,a|b,train\n9.png,b,train\n1.png,a,val\nlabels.csv,b,val")
    with pytest.raises(RunError, match="2 of 4 images cannot be read"):
        check([str(path), "--dataset", "csv"])
    assert f"cannot read the image {tmp_path / '9.png'}" in capfd.readouterr().out


def test_one_label_per_image_through_the_program(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "\n".join(["file,label", *(f"{n}.png,{'ab'[n % 2]}" for n in range(8))]))
    assert main(arguments(path, tmp_path / "run", "--val_split", "0.25")) == 0
    assert main(["eval", str(tmp_path / "run"), "--split", "val"]) == 0
    assert "top-1" in capfd.readouterr().out
