"""mixwell labels: boxes of several forms, errors against a computation by hand, and real birds if they are here."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import mixwell as mw
from mixwell import models
from mixwell.train import box_table, label_errors
from mixwell.train.cli import main
from mixwell.train.config import Config
from mixwell.train.errors import RunError

SIZE = 32
ROOT = Path(__file__).resolve().parents[1]


def write_images(folder: Path, form: tuple[str, ...], count: int = 9) -> Path:
    """Write images 48 pixels wide and 24 high with a bright object each, and the table of their boxes."""
    generator, rows = np.random.default_rng(0), []
    for index in range(count):
        left, top, wide, high = (int(n) for n in generator.integers([0, 0, 6, 4], [30, 14, 18, 10]))
        pixels = generator.integers(0, 60, (24, 48, 3), dtype=np.uint8)
        pixels[top : top + high, left : left + wide] = 230
        name = f"test/{index % 3}/image{index}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
        last = (left + wide, top + high) if form in box_table.CORNERS[2:] else (wide, high)
        rows.append({"file": name, **dict(zip(form, (left, top, *last), strict=True))})
    with (folder / "boxes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "boxes.csv"


@pytest.mark.parametrize("form", box_table.CORNERS, ids=str)
def test_boxes_follow_the_objects(tmp_path: Path, form: tuple[str, ...]) -> None:
    """The object is the bright part of every image, also after it was resized to a square."""
    objects = box_table.read_objects(tmp_path, write_images(tmp_path, form), SIZE, 9)
    masks = mw.labels.objects.object_masks(objects.boxes, 9, (SIZE, SIZE))
    bright = (objects.images.float().mean(1) > 145).float()
    assert (masks - bright).abs().mean() < 0.03
    assert objects.labels.tolist() == [int(name.split("/")[1]) for name in objects.names]


def test_errors_by_hand(tmp_path: Path) -> None:
    objects = box_table.read_objects(tmp_path, write_images(tmp_path, box_table.CORNERS[0]), SIZE, 9)
    model = models.build("mini_resnet", 3, 3)
    policies = {"CutMix": mw.CutMix(scope="sample")}
    names = {"pixels": mw.PixelShare(), "activation": mw.ActivationShare(), "objects": mw.ObjectShare()}
    pixels, activation, exact = label_errors.measure(model, objects, policies, names, mw.IMAGENET)
    assert exact["fraction_error"] < 1e-6 < pixels["fraction_error"]
    images = mw.IMAGENET.normalize(objects.images.float() / 255)
    generator = torch.Generator().manual_seed(0)
    mixed = mw.CutMix(scope="sample")(images, objects.labels, generator=generator)
    masks, share = mw.labels.objects.object_masks(objects.boxes, 9, (SIZE, SIZE)), mixed.plan.share((SIZE, SIZE))
    differences = []
    for row, (a, b) in enumerate(mixed.plan.sources.tolist()):
        seen_a, seen_b = float((share[row, 0] * masks[a]).sum()), float((share[row, 1] * masks[b]).sum())
        if a != b and seen_a + seen_b > 1e-3:
            differences.append(abs(float(mixed.weights[row, 0]) - seen_a / (seen_a + seen_b)))
    assert pixels["error"] == pytest.approx(sum(differences) / len(differences), abs=1e-5)
    assert pixels["weights"] == pytest.approx(mixed.weights[:, 0])
    assert not activation["weights"].allclose(pixels["weights"])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_images(tmp_path, box_table.CORNERS[2])
    save_file(models.build("mini_resnet", 3, 3).state_dict(), tmp_path / "weights.safetensors")
    command = ["labels", str(tmp_path / "weights.safetensors"), "--model", "mini_resnet", "--data", str(tmp_path)]
    command += ["--boxes", str(table), "--image_size", str(SIZE), "--policies", "CutMix", "MixUp", "--count", "8"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "| `ObjectShare()` |" in printed and "left out AttentionShare()" in printed
    found = json.loads((tmp_path / "out" / "label_error.json").read_text())
    assert (found["images"], found["image_size"]) == (8, SIZE)
    assert {record["policy"] for record in found["records"]} == {"CutMix()", "MixUp()"}
    with Image.open(tmp_path / "out" / "worst.png") as picture:
        assert picture.width > 500
    assert main([*command, "--labels", "AttentionShare()"]) == 2
    assert "no attention" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name,x,y,w,h\na.png,1,2,3,4\n", "must have a column file"),
        ("file,left\na.png,1\n", "must have a column file"),
        ("", "must have a column file"),
        ("file,x,y,w,h\ntest/0/image0.png,1,2,three,4\n", "must be four finite numbers"),
        ("file,x,y,w,h\ntest/0/image0.png,1,2,inf,4\n", "must be four finite numbers"),
        ("file,x,y,w,h\ntest/0/image0.png,1,2\n", "must be four finite numbers"),
        ("file,x,y,w,h\nnowhere.png,1,2,3,4\n", "names 0 images with boxes"),
        ("file,x,y,w,h\ntest/0/image0.png,1,2,3,4\n", "names 1 images with boxes"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, content: str, words: str) -> None:
    write_images(tmp_path, box_table.CORNERS[0])
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(RunError, match=words):
        box_table.read_objects(tmp_path, tmp_path / "boxes.csv", SIZE, 4)


def test_rows_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns in another order, several boxes of one image, missing files, boxes that are partly or wholly outside."""
    write_images(tmp_path, box_table.CORNERS[0])
    rows = [
        "h, file, y, x, note, w",
        "6,test/0/image0.png,2,4,,8",
        "12,test/1/image1.png,-6,40,partly outside,100",
        "5,test/0/image0.png,12,30,second box,9",
        "5,nowhere.png,0,0,missing,5",
        "5,test/2/image2.png,30,0,below the image,5",
        "0,test/0/image3.png,3,3,without area,5",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows))
    objects = box_table.read_objects(tmp_path, tmp_path / "boxes.csv", SIZE, 9)
    place = objects.names.index("test/0/image0.png")
    scale = torch.tensor([SIZE / 48, SIZE / 24] * 2)
    expected = torch.tensor([[4.0, 2, 12, 8], [30, 12, 39, 17]]) * scale
    assert sorted(objects.names) == ["test/0/image0.png", "test/1/image1.png"]
    torch.testing.assert_close(objects.boxes[place], expected)
    torch.testing.assert_close(objects.boxes[1 - place], torch.tensor([[40.0, 0, 48, 6], [0, 0, 0, 0]]) * scale)
    masks = mw.labels.objects.object_masks(objects.boxes, 2, (SIZE, SIZE))
    assert masks[place].sum() == pytest.approx(float(((expected[:, 2:] - expected[:, :2]).prod(1)).sum()), rel=1e-4)
    told = capsys.readouterr().err
    assert "left out 1 of 5 images: no file" in told and "left out 2 images: no box inside" in told


def test_run_directory_and_untrained_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run directory brings its network, size and normalization; a name stands for random weights."""
    table, run = write_images(tmp_path, box_table.CORNERS[0]), tmp_path / "run"
    run.mkdir()
    model = models.build("mini_resnet", 3, 3)
    (run / "config.json").write_text(Config(dataset="folder", image_size=SIZE, model="mini_resnet").json())
    names = json.dumps({"classes": ["a", "b", "c"]})
    save_file(model.state_dict(), run / "model.safetensors", {"mixwell": names})
    command = ["--data", str(tmp_path), "--boxes", str(table), "--policies", "CutMix", "--labels", "SemanticShare()"]
    assert main(["labels", str(run), *command, "--out", str(tmp_path / "a")]) == 0
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    alone = [str(tmp_path / "weights.safetensors"), "--model", "mini_resnet", "--image_size", str(SIZE)]
    assert main(["labels", *alone, *command, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "label_error.json").read_text() == (tmp_path / "b" / "label_error.json").read_text()
    assert main(["labels", "mini_resnet", *command, "--image_size", str(SIZE)]) == 0
    capsys.readouterr()
    assert main(["labels", "mini_resnot", *command]) == 2
    assert "neither a run directory nor a file of weights nor a network" in capsys.readouterr().err


def test_results_and_pages(tmp_path: Path) -> None:
    """Measurements are added once, and docs/labels.md and docs/sumix.md have the tables of the committed results."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "label_error.py"))
    for page, tables in script["pages"](script["load"]()).items():
        text = page.read_text(encoding="utf-8")
        assert script["filled"](text, tables) == text, f"{page.name} is old: run python benchmarks/label_error.py"
    keys = [f"{prefix}{key}" for prefix in ("", "fraction_") for key in ("error", "correlation", "large")]
    records = [
        {"policy": policy, "label": label, **dict.fromkeys(keys, value)}
        for policy, value in zip(script["FIVE"], (0.1, 0.2, 0.3, 0.4, 0.50001), strict=True)
        for label in ("PixelShare()", "SemanticShare(similarity='distance', kappa=0.5)")
    ]
    measured = {"images": 8, "image_size": SIZE, "seed": 0, "records": records}
    (tmp_path / "label_error.json").write_text(json.dumps(measured))
    for _ in range(2):
        script["add"]("kappa", "a net", tmp_path, tmp_path / "results.jsonl")
    found = script["load"](tmp_path / "results.jsonl")
    assert len(found) == 10 and found[0]["images"] == 8
    assert script["mean"](found, "a net", "PixelShare()") == pytest.approx(0.3)
    assert "| a net | **0.300** | **0.300** |" in script["kappas"](found, "distance")
    with pytest.raises(ValueError, match="markers of the table networks"):
        script["filled"]("a page", {"networks": ""})


def test_activation_is_closer_by_the_committed_results() -> None:
    """The error to the visible fraction is below 0.75 times that of labels by area, with every trained network."""
    script = runpy.run_path(str(ROOT / "benchmarks" / "label_error.py"))
    trained = [record for record in script["load"]() if "untrained" not in record["network"]]
    networks = dict.fromkeys((record["study"], record["network"]) for record in trained)
    assert len(networks) >= 5
    for study, network in networks:
        mine = [record for record in trained if record["study"] == study]
        area, seen = (script["mean"](mine, network, label) for label in ("PixelShare()", "ActivationShare()"))
        assert seen < 0.75 * area, network


def test_activation_is_closer_on_real_birds(shared: Path) -> None:
    """Birds with boxes and the ImageNet weights of a network that never saw these classes."""
    data, weights = shared / "data" / "ci", shared / "data" / "models" / "tf_efficientnet_lite0.safetensors"
    if not weights.is_file() or not (data / "cub_ci.csv").is_file():
        pytest.skip("the images and weights are not here")
    timm = pytest.importorskip("timm")
    from safetensors.torch import load_file

    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_file(weights))
    objects = box_table.read_objects(data / "cub_ci", data / "cub_ci.csv", 144, 16)
    names = {"pixels": mw.PixelShare(), "activation": mw.ActivationShare()}
    given = model, objects, {"CutMix": mw.CutMix(scope="sample")}, names, mw.Normalization(0.5, 0.5)
    totals = [[record["fraction_error"] for record in label_errors.measure(*given, seed)] for seed in range(4)]
    pixels, activation = (sum(column) / len(column) for column in zip(*totals, strict=True))
    assert activation < 0.9 * pixels
